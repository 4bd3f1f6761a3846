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

/** Sees what gRPC hands to the client. */
public final class CallWatcher implements ClientInterceptor {
    private final AtomicInteger messages = new AtomicInteger();
    private final Semaphore ends = new Semaphore(0);

    /** How many messages of streams the client has got, whoever holds them now. */
    public int messages() {
        return messages.get();
    }

    /** Waits until the client knows of the end of so many more calls. */
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
