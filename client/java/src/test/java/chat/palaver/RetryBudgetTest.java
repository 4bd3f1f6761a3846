package chat.palaver;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.support.Vectors;
import chat.palaver.support.Vectors.Failure;
import com.google.protobuf.Any;
import com.google.protobuf.util.Durations;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Deadline;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class RetryBudgetTest {
    record Break(String name, Failure error, boolean is_break) {}

    record Pauses(String name, Long timeout_ms, long reconnect_timeout_ms, List<Step> steps) {}

    record Step(long at_ms, Boolean received, Failure error, List<Long> pause_ms) {}

    private static final class Clock extends Deadline.Ticker {
        private long nanos;

        @Override
        public long nanoTime() {
            return nanos;
        }
    }

    static List<Break> breaks() {
        return Vectors.read(Vectors.BREAKS, Break.class);
    }

    static List<Pauses> pauses() {
        return Vectors.read(Vectors.PAUSES, Pauses.class);
    }

    private static PalaverException error(Failure failure) {
        var status = com.google.rpc.Status.newBuilder().setCode(failure.code().value());
        if (failure.message() != null) {
            status.setMessage(failure.message());
        }
        if (failure.reason() != null) {
            status.addDetails(Any.pack(ErrorInfo.newBuilder()
                    .setDomain("palaver.v1")
                    .setReason(failure.reason())
                    .build()));
        }
        if (failure.retry_delay_ms() != null) {
            status.addDetails(Any.pack(RetryInfo.newBuilder()
                    .setRetryDelay(Durations.fromMillis(failure.retry_delay_ms()))
                    .build()));
        }
        return PalaverException.of(StatusProto.toStatusRuntimeException(status.build()));
    }

    @ParameterizedTest
    @MethodSource("breaks")
    void onlyBreaksAreRetried(Break vector) {
        var budget = new RetryBudget(null, Duration.ofDays(1), new Clock());
        assertEquals(vector.is_break, budget.delayAfter(error(vector.error)).isPresent());
    }

    @ParameterizedTest
    @MethodSource("pauses")
    void pausesGrowAndEndAtTheLimits(Pauses vector) {
        Clock clock = new Clock();
        Deadline deadline = vector.timeout_ms == null ? null : Deadline.after(vector.timeout_ms, MILLISECONDS, clock);
        RetryBudget budget = new RetryBudget(deadline, Duration.ofMillis(vector.reconnect_timeout_ms), clock);
        for (Step step : vector.steps) {
            clock.nanos = MILLISECONDS.toNanos(step.at_ms);
            if (step.error == null) {
                assertTrue(step.received);
                budget.reset();
                continue;
            }
            Optional<Duration> delay = budget.delayAfter(error(step.error));
            assertEquals(step.pause_ms != null, delay.isPresent(), step.toString());
            delay.ifPresent(pause -> assertTrue(
                    Duration.ofMillis(step.pause_ms.get(0)).compareTo(pause) <= 0
                            && pause.compareTo(Duration.ofMillis(step.pause_ms.get(1))) <= 0,
                    pause + " in " + step));
        }
    }

    @Test
    void pausesAreRandom() {
        PalaverException error = PalaverException.of(Status.UNAVAILABLE.asRuntimeException());
        long different = Stream.generate(() -> new RetryBudget(null, Duration.ofDays(1), new Clock()))
                .limit(50)
                .map(budget -> budget.delayAfter(error))
                .distinct()
                .count();
        assertTrue(different > 1);
    }
}
