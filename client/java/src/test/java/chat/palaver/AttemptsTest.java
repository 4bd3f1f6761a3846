package chat.palaver;

import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Deadline;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/** When a turn is posted again, and after how long. */
class AttemptsTest {
    private final PalaverException broken =
            PalaverException.of(Status.UNAVAILABLE.withDescription("gone").asRuntimeException());

    private final Clock clock = new Clock();

    private static final class Clock extends Deadline.Ticker {
        private long now;

        @Override
        public long nanoTime() {
            return now;
        }

        void advance(Duration time) {
            now += time.toNanos();
        }
    }

    private static PalaverException refusal(Status.Code status, String reason, Duration retryDelay) {
        var delay = com.google.protobuf.Duration.newBuilder().setSeconds(retryDelay.toSeconds());
        return PalaverException.of(StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(status.value())
                .addDetails(Any.pack(ErrorInfo.newBuilder()
                        .setDomain("palaver.v1")
                        .setReason(reason)
                        .build()))
                .addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(delay).build()))
                .build()));
    }

    private Attempts attempts(Duration timeout, Duration reconnectTimeout) {
        Deadline deadline = timeout == null ? null : Deadline.after(timeout.toNanos(), NANOSECONDS, clock);
        return new Attempts(deadline, reconnectTimeout, clock);
    }

    @Test
    void pausesDoubleToTwoSeconds() {
        Attempts attempts = attempts(null, Duration.ofDays(1));
        for (long longest : new long[] {100, 200, 400, 800, 1600, 2000, 2000}) {
            long pause = attempts.pauseAfter(broken).orElseThrow().toMillis();
            assertTrue(longest / 2 <= pause && pause <= longest, pause + " of " + longest);
        }
    }

    @Test
    void pausesAreNotAlwaysTheSame() {
        assertTrue(java.util.stream.IntStream.range(0, 50)
                        .mapToObj(index -> attempts(null, Duration.ofDays(1)).pauseAfter(broken))
                        .distinct()
                        .count()
                > 1);
    }

    @Test
    void whateverArrivesSetsPausesAndClockBack() {
        Attempts attempts = attempts(null, Duration.ofSeconds(10));
        attempts.pauseAfter(broken);
        attempts.pauseAfter(broken);
        clock.advance(Duration.ofSeconds(9));
        attempts.succeeded();
        assertTrue(attempts.pauseAfter(broken).orElseThrow().toMillis() <= 100);
        clock.advance(Duration.ofSeconds(9));
        assertTrue(attempts.pauseAfter(broken).isPresent());
    }

    @Test
    void theServersRetryDelayIsTheLeast() {
        Attempts attempts = attempts(null, Duration.ofSeconds(10));
        assertEquals(
                Optional.of(Duration.ofSeconds(3)),
                attempts.pauseAfter(refusal(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", Duration.ofSeconds(3))));
        assertTrue(attempts.pauseAfter(refusal(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", Duration.ZERO))
                .isPresent());
    }

    @Test
    void nothingIsPostedLaterThanTheReconnectTimeoutAfterTheFirstBreak() {
        Attempts attempts = attempts(null, Duration.ofSeconds(10));
        assertTrue(attempts.pauseAfter(broken).isPresent());
        clock.advance(Duration.ofSeconds(10).minusMillis(201));
        assertTrue(attempts.pauseAfter(broken).isPresent());
        clock.advance(Duration.ofMillis(200));
        assertTrue(attempts.pauseAfter(broken).isEmpty());
    }

    @Test
    void nothingIsPostedAgainWithAReconnectTimeoutOfZero() {
        assertTrue(attempts(null, Duration.ZERO).pauseAfter(broken).isEmpty());
    }

    @Test
    void nothingIsPostedLaterThanTheDeadline() {
        assertTrue(attempts(Duration.ofMillis(100), Duration.ofDays(1))
                .pauseAfter(broken)
                .isPresent());
        assertTrue(attempts(Duration.ofMillis(49), Duration.ofDays(1))
                .pauseAfter(broken)
                .isEmpty());
    }

    @Test
    void onlyABreakIsOne() {
        assertTrue(isBreak(Status.UNAVAILABLE));
        assertTrue(isBreak(
                Status.INTERNAL.withDescription("RST_STREAM closed stream. HTTP/2 error code: PROTOCOL_ERROR")));
        assertTrue(isBreak(Status.CANCELLED.withDescription("RST_STREAM closed stream. HTTP/2 error code: CANCEL")));
        assertFalse(isBreak(Status.INTERNAL.withDescription("a bug")));
        assertFalse(isBreak(Status.CANCELLED));
        assertFalse(isBreak(Status.DEADLINE_EXCEEDED));
        for (String reason : new String[] {"MODEL_UNAVAILABLE", "STORE_UNAVAILABLE", "MODEL_STREAM_BROKEN", "LATER"}) {
            assertTrue(attempts(null, Duration.ofDays(1))
                    .pauseAfter(refusal(Status.Code.UNAVAILABLE, reason, Duration.ZERO))
                    .isEmpty());
        }
    }

    private boolean isBreak(Status status) {
        return attempts(null, Duration.ofDays(1))
                .pauseAfter(PalaverException.of(status.asRuntimeException()))
                .isPresent();
    }
}
