package chat.palaver;

import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.PostUserQueryResponse.EventCase;
import java.util.ArrayList;
import java.util.List;

/**
 * Delivers each event of a reply once, even if the turn is posted several times. This class does no I/O.
 *
 * <p>Lengths are in UTF-16 code units. That is safe because each piece of text on the wire consists of whole characters: if
 * two texts have the same code units up to the end of one of them, that end is between two characters in both.
 */
final class ReplayFilter {
    /** How many posts in a row may bring nothing new before the caller gets the error: each may be a paid model call. */
    private static final int MAX_FRUITLESS_POSTS = 3;

    /** What one post of a turn has brought so far. */
    private static final class Post {
        final boolean isRepeated;
        boolean isAnswered;

        /** True if the caller got text or skill events from it. */
        boolean hasDelivered;

        boolean hasRestarted;

        Post(boolean isRepeated) {
            this.isRepeated = isRepeated;
        }

        /** Returns whether it brought something new. A reply that starts over does not: it replaces what was there before. */
        boolean extendsTheReply() {
            return hasDelivered && !hasRestarted;
        }

        /** Returns whether the server ran or joined the turn again, with nothing new so far. */
        boolean isFruitless() {
            return isRepeated && isAnswered && !extendsTheReply();
        }
    }

    private final StringBuilder text = new StringBuilder();
    private final List<PostUserQueryResponse> skillEvents = new ArrayList<>();
    private boolean isStarted;
    private Post post = new Post(false);

    /** How many posts in a row, up to the previous one, brought nothing new. */
    private int fruitlessBefore;

    /** The events of the new stream so far but {@code progress}, during a replay; otherwise null. */
    private List<PostUserQueryResponse> replayed;

    /** How much of {@code text} the replay has repeated. */
    private int repeatedLength;

    /** The events of {@code skillEvents} that the replay has yet to repeat. */
    private List<PostUserQueryResponse> expectedSkillEvents = List.of();

    /** Returns whether the turn may be posted again, now that the current post has broken off. */
    boolean mayRepeat() {
        return fruitlessPosts() < MAX_FRUITLESS_POSTS;
    }

    /** Returns how many posts in a row, up to the current one, brought nothing new. */
    private int fruitlessPosts() {
        return post.extendsTheReply() ? 0 : fruitlessBefore + (post.isFruitless() ? 1 : 0);
    }

    /** Expects the events of the turn from the first one again, because the turn is posted again. */
    void beginReplay() {
        fruitlessBefore = fruitlessPosts();
        post = new Post(true);
        if (isStarted) {
            replayed = new ArrayList<>();
            repeatedLength = 0;
            expectedSkillEvents = new ArrayList<>(skillEvents);
        }
    }

    /** Takes the next event of the stream and returns the events to deliver. */
    List<PostUserQueryResponse> accept(PostUserQueryResponse event) {
        if (event.getEventCase() == EventCase.EVENT_NOT_SET) { // an event of a newer server
            return List.of();
        }
        post.isAnswered = true;
        if (event.hasProgress()) {
            return List.of(event);
        }
        if (replayed == null) {
            return List.of(deliver(event));
        }
        replayed.add(event);
        return switch (event.getEventCase()) {
            case STARTED -> List.of();
            case TEXT_DELTA -> matchText(event);
            case SKILL_CALL, SKILL_RESULT -> matchSkillEvent(event);
            default -> isCaughtUp() ? List.of(event) : restart();
        };
    }

    /** Skips text that was delivered before and delivers the rest; restarts the reply if the text differs. */
    private List<PostUserQueryResponse> matchText(PostUserQueryResponse event) {
        String piece = event.getTextDelta().getText();
        int length = Math.min(piece.length(), text.length() - repeatedLength);
        if (!piece.substring(0, length).contentEquals(text.subSequence(repeatedLength, repeatedLength + length))) {
            return restart();
        }
        repeatedLength += length;
        if (length == piece.length()) {
            return List.of();
        }
        PostUserQueryResponse.Builder rest = event.toBuilder();
        rest.getTextDeltaBuilder().setText(piece.substring(length));
        List<PostUserQueryResponse> delivered = List.of(deliver(rest.build()));
        repeatedLength = text.length();
        return delivered;
    }

    /** Skips a skill event that was delivered before, once and in any order, and delivers any other one. */
    private List<PostUserQueryResponse> matchSkillEvent(PostUserQueryResponse event) {
        for (PostUserQueryResponse expected : expectedSkillEvents) {
            if (isSameSkillEvent(expected, event)) {
                expectedSkillEvents.remove(expected);
                return List.of();
            }
        }
        return List.of(deliver(event));
    }

    /** Compares two skill events without their sequence, which depends on how the text before them was split. */
    private static boolean isSameSkillEvent(PostUserQueryResponse one, PostUserQueryResponse other) {
        return one.getEventCase() == other.getEventCase()
                && one.getSkillCall().equals(other.getSkillCall())
                && one.getSkillResult().equals(other.getSkillResult());
    }

    private boolean isCaughtUp() {
        return repeatedLength == text.length() && expectedSkillEvents.isEmpty();
    }

    /** Delivers the new stream from its {@code started}, which voids all events before it. */
    private List<PostUserQueryResponse> restart() {
        List<PostUserQueryResponse> events = replayed;
        replayed = null;
        post.hasRestarted = true;
        text.setLength(0);
        skillEvents.clear();
        events.forEach(this::deliver);
        return events;
    }

    /** Records an event as delivered and returns it. */
    private PostUserQueryResponse deliver(PostUserQueryResponse event) {
        switch (event.getEventCase()) {
            case STARTED -> isStarted = true;
            case TEXT_DELTA -> {
                post.hasDelivered = true;
                text.append(event.getTextDelta().getText());
            }
            case SKILL_CALL, SKILL_RESULT -> {
                post.hasDelivered = true;
                skillEvents.add(event);
            }
            default -> {}
        }
        return event;
    }
}
