package chat.palaver;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Deadline;
import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/**
 * How often a turn is posted, and until when.
 *
 * <p>To post again is safe because all posts have the same {@code request_id}: the server replays a turn that is stored
 * and joins one that still runs. One that was lost with its server, or cancelled because its caller seemed to be gone,
 * runs anew. There is no input or output here, and no thread safety: it belongs to one call.
 */
final class Attempts {
    private static final Duration FIRST_PAUSE = Duration.ofMillis(100);
    private static final Duration LONGEST_PAUSE = Duration.ofSeconds(2);

    private final Deadline deadline;
    private final Duration reconnectTimeout;
    private final Deadline.Ticker clock;

    /** Until when the connection may be lost; null while it is not. */
    private Deadline lostUntil;

    private Duration longestNextPause = FIRST_PAUSE;

    /**
     * Takes the deadline of the whole turn, null for none, and how long a connection may be lost; with zero, a turn is
     * never posted again.
     */
    Attempts(Deadline deadline, Duration reconnectTimeout, Deadline.Ticker clock) {
        this.deadline = deadline;
        this.reconnectTimeout = reconnectTimeout;
        this.clock = clock;
    }

    /** Notes that the server has sent something, so that the next break counts anew. */
    void succeeded() {
        lostUntil = null;
        longestNextPause = FIRST_PAUSE;
    }

    /** Returns how long to wait before posting again; without a value, the error is the caller's. */
    Optional<Duration> pauseAfter(PalaverException error) {
        if (!isBreak(error)) {
            return Optional.empty();
        }
        if (lostUntil == null) {
            lostUntil = Deadline.after(NANOSECONDS.convert(reconnectTimeout), NANOSECONDS, clock);
        }
        Duration pause = longer(atRandom(longestNextPause), error.retryDelay().orElse(Duration.ZERO));
        Duration doubled = longestNextPause.multipliedBy(2);
        longestNextPause = doubled.compareTo(LONGEST_PAUSE) < 0 ? doubled : LONGEST_PAUSE;
        return endsBefore(lostUntil, pause) && endsBefore(deadline, pause) ? Optional.of(pause) : Optional.empty();
    }

    /** Whether a call ended because of the way to the server or its stopping, and not for what it asked for. */
    private static boolean isBreak(PalaverException error) {
        if (!error.reason().isEmpty()) { // every error that a Palaver server decides has one
            return error.reason().equals("SHUTTING_DOWN");
        }
        // Proxies end a stream whose other side has gone with a reset; its status is mostly INTERNAL or CANCELLED.
        return error.status() == Status.Code.UNAVAILABLE || error.description().contains("RST_STREAM");
    }

    private static boolean endsBefore(Deadline limit, Duration pause) {
        return limit == null || limit.timeRemaining(NANOSECONDS) >= NANOSECONDS.convert(pause);
    }

    private static Duration atRandom(Duration longest) {
        return Duration.ofNanos(ThreadLocalRandom.current().nextLong(longest.toNanos() / 2, longest.toNanos() + 1));
    }

    private static Duration longer(Duration one, Duration other) {
        return one.compareTo(other) > 0 ? one : other;
    }
}
