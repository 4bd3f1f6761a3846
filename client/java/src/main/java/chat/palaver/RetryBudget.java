package chat.palaver;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Deadline;
import io.grpc.Status;
import java.io.IOException;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Decides when a turn is posted again and when its caller gets the error.
 *
 * <p>Posting again is safe because all posts of a turn have the same {@code request_id}: the server replays a stored turn and
 * joins a running one. A turn that was lost with its server, or cancelled because its caller seemed to be gone, runs again.
 *
 * <p>This class does no I/O. It belongs to one call and is not thread-safe.
 */
final class RetryBudget {
    private static final Duration FIRST_DELAY = Duration.ofMillis(100);
    private static final Duration MAX_DELAY = Duration.ofSeconds(2);

    private final Deadline deadline;
    private final Duration reconnectTimeout;
    private final Deadline.Ticker clock;

    /** The end of the reconnect timeout, or null while the connection is up. */
    private Deadline reconnectDeadline;

    private Duration delay = FIRST_DELAY;

    /**
     * Creates a budget for one call.
     *
     * @param deadline the deadline of the whole call, or null for none
     * @param reconnectTimeout how long the turn may be without a connection; zero disables posting again
     */
    RetryBudget(Deadline deadline, Duration reconnectTimeout, Deadline.Ticker clock) {
        this.deadline = deadline;
        this.reconnectTimeout = reconnectTimeout;
        this.clock = clock;
    }

    /** Restores the full reconnect timeout, because an event has arrived. */
    void reset() {
        reconnectDeadline = null;
        delay = FIRST_DELAY;
    }

    /** Returns how long to wait before posting again, or nothing if the caller gets the error. */
    Optional<Duration> delayAfter(PalaverException error) {
        if (!isBreak(error)) {
            return Optional.empty();
        }
        if (reconnectDeadline == null) {
            reconnectDeadline = Deadline.after(NANOSECONDS.convert(reconnectTimeout), NANOSECONDS, clock);
        }
        Duration jittered = max(withJitter(delay), error.retryDelay().orElse(Duration.ZERO));
        delay = min(delay.multipliedBy(2), MAX_DELAY);
        return fitsIn(reconnectDeadline, jittered) && fitsIn(deadline, jittered)
                ? Optional.of(jittered)
                : Optional.empty();
    }

    /** Returns whether the connection or a shutdown of the server ended the call, rather than the request itself. */
    private static boolean isBreak(PalaverException error) {
        if (!error.reason().isEmpty()) { // a Palaver server gives a reason for each of its own errors
            return error.reason().equals("SHUTTING_DOWN");
        }
        // A proxy resets the stream when it loses the server. The status is then usually INTERNAL or CANCELLED.
        return error.status() == Status.Code.UNAVAILABLE
                || error.description().contains("RST_STREAM")
                || isOfClosedConnection(error);
    }

    /** Returns whether a call began just when its connection closed, which gRPC for Java reports as UNKNOWN. */
    private static boolean isOfClosedConnection(PalaverException error) {
        return error.status() == Status.Code.UNKNOWN
                && Status.fromThrowable(error).getCause() instanceof IOException;
    }

    private static boolean fitsIn(Deadline limit, Duration delay) {
        return limit == null || limit.timeRemaining(NANOSECONDS) >= NANOSECONDS.convert(delay);
    }

    /** Returns a random duration between half of the delay and all of it. */
    private static Duration withJitter(Duration delay) {
        long nanos = delay.toNanos();
        return Duration.ofNanos(ThreadLocalRandom.current().nextLong(nanos / 2, nanos + 1));
    }

    private static Duration min(Duration one, Duration other) {
        return one.compareTo(other) < 0 ? one : other;
    }

    private static Duration max(Duration one, Duration other) {
        return one.compareTo(other) > 0 ? one : other;
    }
}
