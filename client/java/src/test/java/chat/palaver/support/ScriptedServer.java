package chat.palaver.support;

import chat.palaver.v1.AssistantServiceGrpc;
import com.google.protobuf.Message;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * A gRPC server on loopback with scripted answers. It records its calls.
 *
 * <p>Each method of the contract's {@code AssistantService} has its own list of answers, one for each call; the last one
 * serves all further calls. An answer is a list of steps. If none of them ends the call, it ends with OK.
 */
public final class ScriptedServer implements AutoCloseable {
    private static final Context.Key<Metadata> HEADERS = Context.key("headers");

    /** A call that the server received. */
    public static final class Call {
        private final String method;
        private final Message request;
        private final Metadata headers;
        private final Deadline deadline;
        private final CompletableFuture<Void> over = new CompletableFuture<>();
        private final CompletableFuture<Void> abandoned = new CompletableFuture<>();
        private CompletableFuture<Void> ready = new CompletableFuture<>();

        private Call(String method, Message request) {
            this.method = method;
            this.request = request;
            this.headers = HEADERS.get();
            this.deadline = Context.current().getDeadline();
        }

        public Message request() {
            return request;
        }

        /** Returns the deadline of the call, or null for none. */
        public Deadline deadline() {
            return deadline;
        }

        /** Returns a header, or null if it is missing. */
        public String header(String name) {
            return headers.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
        }

        /** Returns a future that completes at the end of the call. */
        public CompletableFuture<Void> over() {
            return over;
        }

        /** Returns a future that completes if the call is cancelled or its deadline expires before the server ends it. */
        public CompletableFuture<Void> abandoned() {
            return abandoned;
        }

        public void end(Runnable end) {
            if (!over.isDone()) {
                end.run();
                over.complete(null);
            }
        }

        synchronized CompletableFuture<Void> nextReady(ServerCallStreamObserver<byte[]> answer) {
            ready = new CompletableFuture<>();
            if (answer.isReady()) {
                ready.complete(null);
            }
            return ready;
        }

        private synchronized void isReady() {
            ready.complete(null);
        }

        private void isAbandoned() {
            abandoned.complete(null);
            over.complete(null);
        }
    }

    private final Map<String, Deque<List<Step>>> answers = new HashMap<>();
    private final List<Call> calls = new ArrayList<>();
    private final ExecutorService players = Executors.newCachedThreadPool();
    private final Server server;

    public ScriptedServer() {
        this(InsecureServerCredentials.create());
    }

    public ScriptedServer(ServerCredentials credentials) {
        ServerServiceDefinition.Builder service = ServerServiceDefinition.builder(AssistantServiceGrpc.SERVICE_NAME);
        AssistantServiceGrpc.getServiceDescriptor().getMethods().forEach(method -> addMethod(service, method));
        try {
            server = Grpc.newServerBuilderForPort(0, credentials)
                    .addService(service.build())
                    .intercept(new HeaderInterceptor())
                    .permitKeepAliveTime(5, TimeUnit.SECONDS)
                    .build()
                    .start();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    public int port() {
        return server.getPort();
    }

    public String target() {
        return "127.0.0.1:" + port();
    }

    /** Sets the answers of a method. */
    @SafeVarargs
    public final void script(String method, List<Step>... scripted) {
        List<List<Step>> all = new ArrayList<>();
        for (List<Step> answer : scripted) {
            all.add(answer);
        }
        scriptAll(method, all);
    }

    /** Sets the answers of a method. */
    public synchronized void scriptAll(String method, List<List<Step>> scripted) {
        answers.put(method, new ArrayDeque<>(scripted));
    }

    /** Returns all calls so far. */
    public synchronized List<Call> calls() {
        return List.copyOf(calls);
    }

    /** Returns all requests of a method so far. */
    public List<Message> requests(String method) {
        return calls().stream()
                .filter(call -> call.method.equals(method))
                .map(Call::request)
                .toList();
    }

    /** Waits until the server has this number of calls, and returns the last one of them. */
    public synchronized Call awaitCall(int count) throws InterruptedException {
        while (calls.size() < count) {
            wait(); // interrupted by the timeout of the test
        }
        return calls.get(count - 1);
    }

    @Override
    public void close() {
        server.shutdownNow();
        players.shutdownNow();
    }

    private <Q, R> void addMethod(ServerServiceDefinition.Builder service, MethodDescriptor<Q, R> method) {
        String name = method.getBareMethodName();
        service.addMethod(
                method.toBuilder(method.getRequestMarshaller(), new Bytes()).build(),
                ServerCalls.asyncServerStreamingCall((request, observer) -> {
                    var answer = (ServerCallStreamObserver<byte[]>) observer;
                    Call call = new Call(name, (Message) request);
                    answer.setOnCancelHandler(call::isAbandoned);
                    answer.setOnReadyHandler(call::isReady);
                    List<Step> steps = begin(call);
                    // Not on this thread, which gRPC needs to report a cancellation.
                    players.execute(() -> play(steps, call, answer));
                }));
    }

    private synchronized List<Step> begin(Call call) {
        calls.add(call);
        notifyAll();
        Deque<List<Step>> scripted = answers.getOrDefault(call.method, new ArrayDeque<>());
        if (scripted.isEmpty()) {
            throw new IllegalStateException("no scripted answer for " + call.method);
        }
        return scripted.size() > 1 ? scripted.remove() : scripted.peek();
    }

    private static void play(List<Step> steps, Call call, ServerCallStreamObserver<byte[]> answer) {
        try {
            for (Step step : steps) {
                if (call.over.isDone()) {
                    return;
                }
                step.play(call, answer);
            }
            call.end(answer::onCompleted);
        } catch (Exception e) {
            call.end(() -> answer.onError(e));
        }
    }

    private static final class HeaderInterceptor implements ServerInterceptor {
        @Override
        public <Q, R> ServerCall.Listener<Q> interceptCall(
                ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
            return Contexts.interceptCall(Context.current().withValue(HEADERS, headers), call, headers, next);
        }
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] bytes) {
            return new ByteArrayInputStream(bytes);
        }

        @Override
        public byte[] parse(InputStream stream) {
            throw new UnsupportedOperationException("the server only sends these");
        }
    }
}
