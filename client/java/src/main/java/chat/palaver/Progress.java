package chat.palaver;

import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.PostUserQueryResponse.EventCase;
import java.util.ArrayList;
import java.util.List;

/**
 * What the caller has had of a reply, so that it gets each piece once however often the turn is posted.
 *
 * <p>Lengths are in UTF-16 code units. They may be, because every piece on the wire is made of whole characters: where
 * two texts have the same units up to the end of one of them, that end lies between characters in both.
 */
final class Progress {
    private final StringBuilder text = new StringBuilder();
    private final List<PostUserQueryResponse> skillEvents = new ArrayList<>();
    private boolean hasBegun;

    /** While a stream repeats what the caller has had: all of that stream; otherwise null. */
    private List<PostUserQueryResponse> repeated;

    /** How much of {@code text} the stream has repeated. */
    private int repeatedText;

    /** Those of {@code skillEvents} that the stream has not repeated. */
    private List<PostUserQueryResponse> missingSkillEvents = List.of();

    /** Notes that the events begin again with the first one. */
    void postAgain() {
        if (hasBegun) {
            repeated = new ArrayList<>();
            repeatedText = 0;
            missingSkillEvents = new ArrayList<>(skillEvents);
        }
    }

    /** Takes the next event of the stream and returns those that the caller gets. */
    List<PostUserQueryResponse> accept(PostUserQueryResponse event) {
        if (event.getEventCase() == EventCase.EVENT_NOT_SET) { // a newer server may have other events
            return List.of();
        }
        if (repeated == null) {
            return List.of(handOut(event));
        }
        repeated.add(event);
        return switch (event.getEventCase()) {
            case STARTED -> List.of();
            case TEXT_DELTA -> repeatText(event);
            case SKILL_CALL, SKILL_RESULT -> repeatSkillEvent(event);
            default -> isCaughtUp() ? List.of(event) : beginAnew();
        };
    }

    private List<PostUserQueryResponse> repeatText(PostUserQueryResponse event) {
        String piece = event.getTextDelta().getText();
        int known = Math.min(piece.length(), text.length() - repeatedText);
        if (!piece.substring(0, known).contentEquals(text.subSequence(repeatedText, repeatedText + known))) {
            return beginAnew();
        }
        repeatedText += known;
        if (known == piece.length()) {
            return List.of();
        }
        PostUserQueryResponse.Builder rest = event.toBuilder();
        rest.getTextDeltaBuilder().setText(piece.substring(known));
        List<PostUserQueryResponse> handedOut = List.of(handOut(rest.build()));
        repeatedText = text.length();
        return handedOut;
    }

    private List<PostUserQueryResponse> repeatSkillEvent(PostUserQueryResponse event) {
        for (PostUserQueryResponse missing : missingSkillEvents) {
            if (isSameSkillEvent(missing, event)) {
                missingSkillEvents.remove(missing);
                return List.of();
            }
        }
        return List.of(handOut(event));
    }

    /** Compares without the sequence, which depends on how the text before the events was cut. */
    private static boolean isSameSkillEvent(PostUserQueryResponse one, PostUserQueryResponse other) {
        return one.getEventCase() == other.getEventCase()
                && one.getSkillCall().equals(other.getSkillCall())
                && one.getSkillResult().equals(other.getSkillResult());
    }

    private boolean isCaughtUp() {
        return repeatedText == text.length() && missingSkillEvents.isEmpty();
    }

    /** Hands out the whole stream from its {@code started}: what came before it is void. */
    private List<PostUserQueryResponse> beginAnew() {
        List<PostUserQueryResponse> events = repeated;
        repeated = null;
        text.setLength(0);
        skillEvents.clear();
        events.forEach(this::handOut);
        return events;
    }

    private PostUserQueryResponse handOut(PostUserQueryResponse event) {
        switch (event.getEventCase()) {
            case STARTED -> hasBegun = true;
            case TEXT_DELTA -> text.append(event.getTextDelta().getText());
            case SKILL_CALL, SKILL_RESULT -> skillEvents.add(event);
            default -> {}
        }
        return event;
    }
}
