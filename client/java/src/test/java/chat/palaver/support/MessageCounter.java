package chat.palaver.support;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.util.concurrent.atomic.AtomicInteger;

/** Counts the messages of streams that gRPC has handed to the client, whoever holds them now. */
public final class MessageCounter implements ClientInterceptor {
    private final AtomicInteger messages = new AtomicInteger();

    public int messages() {
        return messages.get();
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
                        },
                        headers);
            }
        };
    }
}
