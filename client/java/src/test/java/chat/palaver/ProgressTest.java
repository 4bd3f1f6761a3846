package chat.palaver;

import static chat.palaver.support.Replies.completedEvent;
import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.skillCallEvent;
import static chat.palaver.support.Replies.skillResultEvent;
import static chat.palaver.support.Replies.startedEvent;
import static chat.palaver.support.Replies.textEvent;
import static org.junit.jupiter.api.Assertions.assertEquals;

import chat.palaver.v1.PostUserQueryResponse;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** What of a repeated stream the caller gets. */
class ProgressTest {
    private final Progress progress = new Progress();
    private final List<PostUserQueryResponse> handedOut = new ArrayList<>();

    private ProgressTest stream(PostUserQueryResponse... events) {
        progress.postAgain();
        for (PostUserQueryResponse event : events) {
            handedOut.addAll(progress.accept(event));
        }
        return this;
    }

    private void gives(String... lines) {
        assertEquals(List.of(lines), shown(handedOut));
    }

    @Test
    void textIsSkippedAndPiecesAreSplit() {
        stream(startedEvent(), textEvent("Hel"), textEvent("lo")).stream(
                        startedEvent(), textEvent("H"), textEvent("ello, wor"))
                .stream(startedEvent(), textEvent("Hello, world"), completedEvent())
                .gives("started", "Hel", "lo", ", wor", "ld", "completed");
    }

    @Test
    void textOfSeveralCodeUnitsIsCutBetweenCharacters() {
        stream(startedEvent(), textEvent("a😀")).stream(startedEvent(), textEvent("a😀e\u0301"), textEvent("👨‍👩‍👧"))
                .stream(startedEvent(), textEvent("a"), textEvent("😀e"), textEvent("\u0301👨"), textEvent("‍👩‍👧 we"))
                .gives("started", "a😀", "e\u0301", "👨‍👩‍👧", " we");
    }

    @Test
    void charactersThatShareTheirFirstCodeUnitAreDifferent() {
        stream(startedEvent(), textEvent("😀")).stream(startedEvent(), textEvent("😁"), completedEvent())
                .gives("started", "😀", "started", "😁", "completed");
    }

    @Test
    void skillEventsAreSkippedOnceEachInAnyOrder() {
        stream(startedEvent(), skillCallEvent("1"), skillCallEvent("2"), skillResultEvent("2")).stream(
                        startedEvent(), skillCallEvent("2"), skillCallEvent("1"), skillResultEvent("1"))
                .stream(startedEvent(), skillCallEvent("1"), skillCallEvent("1"), skillCallEvent("2"))
                .gives("started", "call 1", "call 2", "result 2", "result 1", "call 1");
    }

    @Test
    void theSequenceOfASkillEventDoesNotMatter() {
        stream(startedEvent(), skillCallEvent("1")).stream(
                        startedEvent(),
                        skillCallEvent("1").toBuilder().setSequence(7).build(),
                        completedEvent())
                .gives("started", "call 1", "completed");
    }

    @Test
    void anotherTextBeginsAnew() {
        stream(startedEvent(), textEvent("Hel"), textEvent("lo")).stream(
                        startedEvent(), textEvent("Hel"), textEvent("p!"), textEvent(" Now."))
                .stream(startedEvent(), textEvent("Help! Now."), completedEvent())
                .gives("started", "Hel", "lo", "started", "Hel", "p!", " Now.", "completed");
    }

    @Test
    void aShorterTextBeginsAnew() {
        stream(startedEvent(), textEvent("Hello")).stream(startedEvent(), textEvent("He"), completedEvent())
                .gives("started", "Hello", "started", "He", "completed");
    }

    @Test
    void aMissingSkillEventBeginsAnew() {
        stream(startedEvent(), textEvent("Hi"), skillCallEvent("1")).stream(
                        startedEvent(), textEvent("Hi"), textEvent(" there"), completedEvent())
                .gives("started", "Hi", "call 1", " there", "started", "Hi", " there", "completed");
    }

    @Test
    void whatBeganAnewIsWhatTheNextStreamIsComparedWith() {
        stream(startedEvent(), textEvent("One"), skillCallEvent("1")).stream(startedEvent(), textEvent("Two")).stream(
                        startedEvent(), textEvent("Two"), textEvent(" it is"), completedEvent())
                .gives("started", "One", "call 1", "started", "Two", " it is", "completed");
    }

    @Test
    void aBreakBeforeTheFirstEventRepeatsNothing() {
        stream().stream(startedEvent()).stream().stream(startedEvent(), textEvent("Hi"), completedEvent())
                .gives("started", "Hi", "completed");
    }

    @Test
    void eventsOfANewerServerAreSkipped() {
        PostUserQueryResponse unknown =
                PostUserQueryResponse.newBuilder().setSequence(2).build();
        stream(startedEvent(), unknown, textEvent("Hi")).stream(
                        startedEvent(), unknown, textEvent("Hi"), unknown, completedEvent())
                .gives("started", "Hi", "completed");
    }
}
