package chat.palaver;

import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.started;
import static chat.palaver.support.Replies.text;
import static chat.palaver.support.Replies.turn;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.support.CallWatcher;
import chat.palaver.support.CuttingProxy;
import chat.palaver.support.ResettingServer;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.support.Waiting;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import com.google.rpc.RetryInfo;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.nio.channels.ClosedChannelException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tests a reply whose connection breaks. {@link ReplayTest} tests which events are delivered then. */
class ResumeTest {
    private static final PostUserQueryRequest QUERY = PostUserQueryRequest.newBuilder()
            .setId("support")
            .setUserMessage("Hello!")
            .build();
    private static final Step BREAK = Step.fail(Status.UNAVAILABLE.withDescription("Socket closed"));
    private static final Step SHUTTING_DOWN = Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN");

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final PalaverClient client = PalaverClient.connect(server.target());

    private final CallWatcher watcher = new CallWatcher();

    private static Step shuttingDown(long retryDelaySeconds) {
        return Step.refuse(
                Status.Code.UNAVAILABLE,
                "SHUTTING_DOWN",
                RetryInfo.newBuilder()
                        .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(retryDelaySeconds))
                        .build());
    }

    private PalaverClient client(Duration reconnectTimeout) {
        return PalaverClient.builder()
                .target(server.target())
                .reconnectTimeout(reconnectTimeout)
                .configureChannel(channel -> channel.intercept(watcher))
                .build();
    }

    private List<String> read(PalaverClient client) {
        try (Reply reply = client.postUserQuery(QUERY)) {
            return shown(reply);
        }
    }

    private static PalaverException failure(Runnable call) {
        return assertThrows(PalaverException.class, call::run);
    }

    static List<Step> breaks() {
        return List.of(
                BREAK,
                SHUTTING_DOWN,
                Step.refuse(Status.Code.CANCELLED, "SHUTTING_DOWN"),
                Step.fail(Status.INTERNAL.withDescription("Received RST_STREAM with code 2")));
    }

    @ParameterizedTest
    @MethodSource("breaks")
    void theTurnIsPostedAgainAndTheReplyContinues(Step end) {
        server.script(
                "PostUserQuery",
                List.of(started(), text("Hel"), end),
                List.of(end),
                List.of(started(), text("He"), end),
                List.of(started(), text("Hello, "), end),
                turn("Hello, wor", "ld"));
        assertEquals(List.of("started", "Hel", "lo, ", "wor", "ld", "completed"), read(client));
        var requests = server.requests("PostUserQuery");
        assertEquals(5, requests.size());
        assertEquals(1, requests.stream().distinct().count());
    }

    @Test
    void aCallThatBeginsWhileItsConnectionClosesIsPostedAgain() {
        server.script("PostUserQuery", turn("Hello"));
        AtomicBoolean isFirst = new AtomicBoolean(true);
        ClientInterceptor closing = new ClientInterceptor() {
            @Override
            public <Q, A> ClientCall<Q, A> interceptCall(
                    MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
                return isFirst.getAndSet(false) ? new ClosedCall<>() : next.newCall(method, options);
            }
        };
        try (PalaverClient closed = PalaverClient.builder()
                .target(server.target())
                .configureChannel(channel -> channel.intercept(closing))
                .build()) {
            assertEquals(List.of("started", "Hello", "completed"), read(closed));
        }
    }

    /** A call that ends as calls of gRPC for Java do when their connection closes as they begin. */
    private static final class ClosedCall<Q, A> extends ClientCall<Q, A> {
        @Override
        public void start(Listener<A> listener, Metadata headers) {
            listener.onClose(
                    Status.UNKNOWN.withDescription("channel closed").withCause(new ClosedChannelException()),
                    new Metadata());
        }

        @Override
        public void request(int count) {}

        @Override
        public void cancel(String message, Throwable cause) {}

        @Override
        public void halfClose() {}

        @Override
        public void sendMessage(Q message) {}
    }

    @Test
    void aLostConnectionIsABreak() throws Exception {
        CompletableFuture<Void> never = new CompletableFuture<>();
        server.script(
                "PostUserQuery",
                List.of(started(), text("Hel"), Step.await(never)),
                List.of(started(), text("Hello, "), Step.await(never)),
                turn("Hello, world"));
        try (CuttingProxy proxy = new CuttingProxy(server);
                PalaverClient throughProxy = PalaverClient.connect(proxy.target());
                Reply reply = throughProxy.postUserQuery(QUERY)) {
            List<String> pieces = new ArrayList<>();
            for (String text : reply.text()) {
                pieces.add(text);
                proxy.cut();
            }
            assertEquals(List.of("Hel", "lo, ", "world"), pieces);
        }
        Waiting.until(server.awaitCall(1).abandoned());
        Waiting.until(server.awaitCall(2).abandoned());
    }

    @Test
    void eachPostReconnectsImmediately() throws Exception {
        server.script("PostUserQuery", List.of(started(), text("Hel"), Step.hang()), turn("Hello"));
        Semaphore posts = new Semaphore(0);
        ClientInterceptor counting = new ClientInterceptor() {
            @Override
            public <Q, R> ClientCall<Q, R> interceptCall(
                    MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
                posts.release();
                return next.newCall(method, options);
            }
        };
        try (CuttingProxy proxy = new CuttingProxy(server);
                PalaverClient throughProxy = PalaverClient.builder()
                        .target(proxy.target())
                        .reconnectTimeout(Duration.ofSeconds(60))
                        .configureChannel(channel -> channel.intercept(counting))
                        .build();
                Reply reply = throughProxy.postUserQuery(QUERY)) {
            Iterator<PostUserQueryResponse> events = reply.iterator();
            assertEquals("started", shown(events.next()));
            assertEquals("Hel", shown(events.next()));
            proxy.setAccepting(false);
            proxy.cut();
            assertTrue(posts.tryAcquire(8, 30, TimeUnit.SECONDS));
            // The backoff of gRPC would permit about three attempts.
            assertTrue(proxy.connections() > 5, proxy.connections() + " connections");
            proxy.setAccepting(true);
            assertEquals(List.of("lo", "completed"), shown(() -> events));
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {0 /* NO_ERROR */, 1 /* PROTOCOL_ERROR */, 2 /* INTERNAL_ERROR */, 7, 8 /* CANCEL */})
    void aResetStreamIsABreak(int errorCode) throws Exception {
        try (ResettingServer resetting = new ResettingServer(errorCode);
                PalaverClient throughProxy = PalaverClient.builder()
                        .target(resetting.target())
                        .reconnectTimeout(Duration.ofMillis(500))
                        .build();
                Reply reply = throughProxy.postUserQuery(QUERY)) {
            failure(() -> shown(reply));
            assertTrue(resetting.streams() > 2, resetting.streams() + " streams");
        }
    }

    @Test
    void textIsNeverMixedFromTwoReplies() throws Exception {
        server.script(
                "PostUserQuery", List.of(started(), text("One"), BREAK), List.of(started(), text("Two"), Step.hang()));
        List<String> pieces = new ArrayList<>();
        try (Reply reply = client.postUserQuery(QUERY)) {
            PalaverException error = failure(() -> reply.text().forEach(pieces::add));
            assertEquals(Status.Code.UNAVAILABLE, error.status());
            assertEquals("", error.reason());
            assertTrue(error.description().contains("ran again"));
            Waiting.until(server.awaitCall(2).abandoned());
        }
        assertEquals(List.of("One"), pieces);
    }

    @Test
    void textContinuesAfterARestartThatTheCallerHasSeen() {
        server.script("PostUserQuery", List.of(started(), text("One"), BREAK), turn("Two"));
        try (Reply reply = client.postUserQuery(QUERY)) {
            Iterator<PostUserQueryResponse> events = reply.iterator();
            assertEquals(
                    List.of("started", "One", "started"),
                    List.of(shown(events.next()), shown(events.next()), shown(events.next())));
            List<String> pieces = new ArrayList<>();
            reply.text().forEach(pieces::add);
            assertEquals(List.of("Two"), pieces);
        }
    }

    // Errors that are the caller's.

    static List<Step> otherErrors() {
        return List.of(
                Step.refuse(Status.Code.UNAVAILABLE, "MODEL_UNAVAILABLE"),
                Step.refuse(Status.Code.CANCELLED, "TURN_CANCELLED"),
                Step.refuse(Status.Code.ABORTED, "ASSISTANT_BUSY"),
                Step.fail(Status.INTERNAL.withDescription("of an intermediary")),
                Step.fail(Status.CANCELLED),
                Step.fail(Status.UNAUTHENTICATED.withDescription("who are you?")));
    }

    @ParameterizedTest
    @MethodSource("otherErrors")
    void otherErrorsAreNotRetried(Step error) {
        server.script("PostUserQuery", List.of(started(), text("Hi"), error));
        server.script("PostUserQueryUnary", List.of(error));
        assertEquals(
                failure(() -> read(client)).status(),
                failure(() -> client.postUserQueryUnary(QUERY)).status());
        assertEquals(2, server.calls().size());
    }

    @Test
    void theTurnFailsAfterTheReconnectTimeout() {
        server.script("PostUserQuery", List.of(started(), text("Hi"), BREAK), List.of(BREAK));
        server.script("PostUserQueryUnary", List.of(BREAK));
        try (PalaverClient impatient = client(Duration.ofMillis(500))) {
            assertEquals("Socket closed", failure(() -> read(impatient)).description());
            assertEquals(
                    "Socket closed",
                    failure(() -> impatient.postUserQueryUnary(QUERY)).description());
        }
        assertTrue(server.calls().size() > 4);
    }

    @Test
    void aMissingServerIsUnavailable() {
        try (PalaverClient lost = PalaverClient.builder()
                        .target("127.0.0.1:9")
                        .reconnectTimeout(Duration.ofMillis(500))
                        .build();
                Reply reply = lost.postUserQuery(QUERY)) {
            PalaverException error = failure(() -> shown(reply));
            assertEquals(Status.Code.UNAVAILABLE, error.status());
            assertEquals("", error.reason());
        }
    }

    @Test
    void anAnswerResetsTheReconnectTimeout() {
        // Each pause is shorter than the reconnect timeout, and all of them together are longer. Each post brings a
        // piece.
        List<List<Step>> posts = new ArrayList<>();
        for (int length = 1; length <= 9; length++) {
            posts.add(List.of(started(), text("x".repeat(length)), BREAK));
        }
        posts.add(turn("x".repeat(9)));
        server.scriptAll("PostUserQuery", posts);
        try (PalaverClient impatient = client(Duration.ofMillis(400))) {
            List<String> events = read(impatient);
            assertEquals("x".repeat(9), String.join("", events.subList(1, events.size() - 1)));
        }
    }

    @Test
    void aReconnectTimeoutOfZeroDisablesRetries() {
        server.script("PostUserQuery", List.of(started(), BREAK));
        server.script("PostUserQueryUnary", List.of(BREAK));
        try (PalaverClient direct = client(Duration.ZERO)) {
            failure(() -> read(direct));
            failure(() -> direct.postUserQueryUnary(QUERY));
        }
        assertEquals(2, server.calls().size());
    }

    @Test
    void retriesEndAtTheDeadline() throws Exception {
        server.script("PostUserQuery", List.of(started(), shuttingDown(2)), List.of(shuttingDown(1000)));
        try (PalaverClient patient = client(Duration.ofSeconds(2000));
                Reply reply = patient.postUserQuery(QUERY, Duration.ofSeconds(60))) {
            assertEquals("SHUTTING_DOWN", failure(() -> shown(reply)).reason());
        }
        long first = server.awaitCall(1).deadline().timeRemaining(TimeUnit.MILLISECONDS);
        long second = server.awaitCall(2).deadline().timeRemaining(TimeUnit.MILLISECONDS);
        // Both deadlines are the same, apart from rounding by gRPC.
        assertTrue(Math.abs(first - second) < 1000, first + " and " + second + " ms");
    }

    @Test
    void retriesEndAtTheDeadlineOfTheContext() throws Exception {
        server.script("PostUserQuery", List.of(started(), shuttingDown(1000)));
        server.script("PostUserQueryUnary", List.of(shuttingDown(1000)));
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        try (PalaverClient patient = client(Duration.ofSeconds(2000));
                Context.CancellableContext context = Context.current().withDeadlineAfter(60, TimeUnit.SECONDS, timer)) {
            context.run(() -> {
                assertEquals("SHUTTING_DOWN", failure(() -> read(patient)).reason());
                assertEquals(
                        "SHUTTING_DOWN",
                        failure(() -> patient.postUserQueryUnary(QUERY)).reason());
            });
        } finally {
            timer.shutdownNow();
        }
    }

    // Cancellation between two posts.

    @Test
    @SuppressWarnings("try") // the test closes it
    void anotherThreadCanCloseAReplyBetweenTwoPosts() throws Exception {
        server.script("PostUserQuery", List.of(shuttingDown(1000)));
        try (PalaverClient patient = client(Duration.ofSeconds(2000));
                Reply reply = patient.postUserQuery(QUERY)) {
            CompletableFuture<PalaverException> error =
                    CompletableFuture.supplyAsync(() -> failure(() -> shown(reply)));
            watcher.awaitEnds(1);
            reply.close();
            assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
        }
        assertEquals(1, server.calls().size());
    }

    @Test
    void theContextEndsATurnBetweenTwoPosts() throws Exception {
        server.script("PostUserQuery", List.of(shuttingDown(1000)));
        server.script("PostUserQueryUnary", List.of(shuttingDown(1000)));
        try (PalaverClient patient = client(Duration.ofSeconds(2000));
                Context.CancellableContext context = Context.current().withCancellation()) {
            Runnable post = () -> context.run(() -> read(patient));
            Runnable postUnary = () -> context.run(() -> patient.postUserQueryUnary(QUERY));
            var reply = CompletableFuture.supplyAsync(() -> failure(post));
            var unary = CompletableFuture.supplyAsync(() -> failure(postUnary));
            watcher.awaitEnds(2);
            context.cancel(null);
            assertEquals(Status.Code.CANCELLED, Waiting.until(reply).status());
            assertEquals(Status.Code.CANCELLED, Waiting.until(unary).status());
        }
        assertEquals(2, server.calls().size());
    }

    @Test
    void closingTheClientEndsATurnBetweenTwoPosts() throws Exception {
        server.script("PostUserQuery", List.of(shuttingDown(1000)));
        server.script("PostUserQueryUnary", List.of(shuttingDown(1000)));
        PalaverClient patient = client(Duration.ofSeconds(2000));
        try (Reply reply = patient.postUserQuery(QUERY)) {
            var unary = CompletableFuture.supplyAsync(() -> failure(() -> patient.postUserQueryUnary(QUERY)));
            watcher.awaitEnds(2);
            patient.close();
            assertEquals(Status.Code.CANCELLED, failure(() -> shown(reply)).status());
            assertEquals(Status.Code.CANCELLED, Waiting.until(unary).status());
        }
        assertEquals(2, server.calls().size());
    }

    @Test
    void anUnreadReplyIsPostedAgain() throws Exception {
        server.script("PostUserQuery", List.of(started(), BREAK), turn("Hi"));
        try (Reply reply = client.postUserQuery(QUERY)) {
            server.awaitCall(2);
            assertEquals(List.of("started", "Hi", "completed"), shown(reply));
        }
    }
}
