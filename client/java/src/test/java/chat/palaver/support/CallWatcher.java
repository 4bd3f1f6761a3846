package chat.palaver.support;

import static java.util.concurrent.TimeUnit.SECONDS;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/** Counts the messages and ends of calls that gRPC delivers to the client. */
public final class CallWatcher implements ClientInterceptor {
    private final AtomicInteger messages = new AtomicInteger();
    private final Semaphore ends = new Semaphore(0);

    /** Returns the number of messages of streams that the client has received. */
    public int messages() {
        return messages.get();
    }

    /** Waits until this number of further calls has ended. */
    public void awaitEnds(int count) throws InterruptedException {
        assertTrue(ends.tryAcquire(count, 30, SECONDS));
    }

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
            @Override
            public void start(Listener<R> listener, Metadata headers) {
                super.start(
                        new SimpleForwardingClientCallListener<>(listener) {
                            @Override
                            public void onMessage(R message) {
                                if (!method.getType().serverSendsOneMessage()) {
                                    messages.incrementAndGet();
                                }
                                super.onMessage(message);
                            }

                            @Override
                            public void onClose(Status status, Metadata trailers) {
                                super.onClose(status, trailers);
                                ends.release();
                            }
                        },
                        headers);
            }
        };
    }
}
