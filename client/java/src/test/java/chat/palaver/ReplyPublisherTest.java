package chat.palaver;

import static chat.palaver.support.Replies.completed;
import static chat.palaver.support.Replies.gotAssistant;
import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.started;
import static chat.palaver.support.Replies.text;
import static chat.palaver.support.Replies.textEvent;
import static chat.palaver.support.Replies.turn;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;

import chat.palaver.support.CallWatcher;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.support.Waiting;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import com.google.rpc.RetryInfo;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.lang.ref.WeakReference;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;

/** Tests a reply as a reactive stream. */
class ReplyPublisherTest {
    private static final PostUserQueryRequest QUERY = PostUserQueryRequest.newBuilder()
            .setId("support")
            .setUserMessage("Hello!")
            .build();
    private static final Step BREAK = Step.fail(Status.UNAVAILABLE.withDescription("Socket closed"));

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final PalaverClient client = PalaverClient.connect(server.target());

    /** Records its signals. It requests nothing on its own. */
    private static class Recorder implements Flow.Subscriber<PostUserQueryResponse> {
        final BlockingQueue<PostUserQueryResponse> events = new LinkedBlockingQueue<>();
        final CompletableFuture<Void> end = new CompletableFuture<>();
        Flow.Subscription subscription;

        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            this.subscription = subscription;
        }

        @Override
        public void onNext(PostUserQueryResponse event) {
            events.add(event);
        }

        @Override
        public void onError(Throwable error) {
            end.completeExceptionally(error);
        }

        @Override
        public void onComplete() {
            end.complete(null);
        }

        Throwable failure() {
            return assertThrows(ExecutionException.class, () -> Waiting.until(end))
                    .getCause();
        }
    }

    private Recorder subscribe(ReplyPublisher reply) {
        Recorder recorder = new Recorder();
        reply.subscribe(recorder);
        return recorder;
    }

    @Test
    void eventsArriveOnDemand() throws Exception {
        server.script("PostUserQuery", turn("One", "Two"));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(2);
        assertEquals("started", shown(recorder.events.take()));
        assertEquals("One", shown(recorder.events.take()));
        assertEquals(0, recorder.events.size());
        recorder.subscription.request(Long.MAX_VALUE);
        recorder.subscription.request(Long.MAX_VALUE);
        Waiting.until(recorder.end);
        assertEquals(List.of("Two", "completed"), shown(recorder.events));
    }

    @Test
    void aSubscriberWithoutDemandStopsTheServer() throws Exception {
        CompletableFuture<Void> stalled = new CompletableFuture<>();
        server.script(
                "PostUserQuery",
                List.of(started(), Step.flood(textEvent("x".repeat(10_000)), 3000, stalled), completed()));
        server.script("GetAssistant", List.of(gotAssistant()));
        CallWatcher watcher = new CallWatcher();
        try (PalaverClient counting = PalaverClient.builder()
                .target(server.target())
                .configureChannel(channel -> channel.intercept(watcher))
                .build()) {
            Recorder recorder = subscribe(counting.async().postUserQuery(QUERY));
            Waiting.until(stalled);
            // Messages in transit would arrive before the responses to these calls on the same connection.
            for (int call = 0; call < 200; call++) {
                counting.getAssistant(GetAssistantRequest.getDefaultInstance());
            }
            assertEquals(0, watcher.messages());
            recorder.subscription.request(Long.MAX_VALUE);
            Waiting.until(recorder.end);
            assertEquals(3002, recorder.events.size());
        }
    }

    @Test
    void restartedRepliesArriveOnDemand() throws Exception {
        server.script(
                "PostUserQuery",
                List.of(started(), text("Hel"), text("lo"), BREAK),
                List.of(started(), text("Hel"), text("p"), text("!"), completed()));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        List<String> lines = new ArrayList<>();
        for (int count = 0; count < 8; count++) {
            recorder.subscription.request(1);
            lines.add(shown(recorder.events.take()));
            assertEquals(0, recorder.events.size());
        }
        assertEquals(List.of("started", "Hel", "lo", "started", "Hel", "p", "!", "completed"), lines);
        Waiting.until(recorder.end);
    }

    @Test
    void itCompletesWithoutDemandAndIgnoresEventsAfterCompleted() throws Exception {
        server.script("PostUserQuery", List.of(started(), completed(), text("more"), text("and more")));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(2);
        Waiting.until(recorder.end);
        assertEquals(List.of("started", "completed"), shown(recorder.events));
    }

    @Test
    void eachSubscriptionPostsTheSameTurn() throws Exception {
        server.script("PostUserQuery", turn("Hi"));
        ReplyPublisher reply = client.async().postUserQuery(QUERY);
        assertEquals(0, server.calls().size());
        for (int time = 0; time < 2; time++) {
            Recorder recorder = subscribe(reply);
            recorder.subscription.request(10);
            Waiting.until(recorder.end);
            assertEquals(List.of("started", "Hi", "completed"), shown(recorder.events));
        }
        PostUserQueryRequest posted =
                QUERY.toBuilder().setRequestId(reply.requestId()).build();
        assertEquals(List.of(posted, posted), server.requests("PostUserQuery"));
    }

    @Test
    void anErrorIsAPalaverException() {
        server.script("PostUserQuery", List.of(started(), Step.refuse(Status.Code.NOT_FOUND, "ASSISTANT_NOT_FOUND")));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(1);
        PalaverException error = assertInstanceOf(PalaverException.class, recorder.failure());
        assertEquals("ASSISTANT_NOT_FOUND", error.reason());
    }

    @Test
    void cancellingEndsTheCallWithoutASignal() throws Exception {
        server.script("PostUserQuery", List.of(started(), text("Hi"), Step.hang()));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(1);
        recorder.events.take();
        recorder.subscription.cancel();
        Waiting.until(server.awaitCall(1).abandoned());
        recorder.subscription.request(1);
        client.close();
        assertEquals(0, recorder.events.size());
        assertFalse(recorder.end.isDone());
    }

    @Test
    void cancellingEndsTheCallWhileTheSubscriberIsBusy() throws Exception {
        server.script("PostUserQuery", List.of(started(), Step.hang()));
        CompletableFuture<Void> mayContinue = new CompletableFuture<>();
        CompletableFuture<Void> isBusy = new CompletableFuture<>();
        Recorder recorder = new Recorder() {
            @Override
            public void onNext(PostUserQueryResponse event) {
                isBusy.complete(null);
                mayContinue.join();
            }
        };
        client.async().postUserQuery(QUERY).subscribe(recorder);
        CompletableFuture.runAsync(() -> recorder.subscription.request(1)).get();
        Waiting.until(isBusy);
        recorder.subscription.cancel();
        Waiting.until(server.awaitCall(1).abandoned());
        mayContinue.complete(null);
    }

    @Test
    void cancellingPreventsAnotherPost() throws Exception {
        var delay = RetryInfo.newBuilder()
                .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(1000))
                .build();
        server.script("PostUserQuery", List.of(Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", delay)), turn());
        CallWatcher watcher = new CallWatcher();
        try (PalaverClient watched = PalaverClient.builder()
                .target(server.target())
                .reconnectTimeout(Duration.ofSeconds(2000))
                .configureChannel(channel -> channel.intercept(watcher))
                .build()) {
            ReplyPublisher reply = watched.async().postUserQuery(QUERY);
            Recorder recorder = subscribe(reply);
            watcher.awaitEnds(1);
            recorder.subscription.cancel();
            WeakReference<Flow.Subscription> subscription = new WeakReference<>(recorder.subscription);
            recorder.subscription = null;
            awaitGarbageCollection(subscription);
        }
        assertEquals(1, server.calls().size());
    }

    @Test
    void aSubscriberMayRequestAndCancelWithinItsSignals() throws Exception {
        server.script("PostUserQuery", List.of(started(), text("One"), text("Two"), Step.hang()));
        Recorder recorder = new Recorder() {
            @Override
            public void onSubscribe(Flow.Subscription subscription) {
                super.onSubscribe(subscription);
                subscription.request(Long.MAX_VALUE);
            }

            @Override
            public void onNext(PostUserQueryResponse event) {
                super.onNext(event);
                if (event.hasTextDelta()) {
                    subscription.cancel();
                }
            }
        };
        client.async().postUserQuery(QUERY).subscribe(recorder);
        Waiting.until(server.awaitCall(1).abandoned());
        assertEquals(List.of("started", "One"), shown(recorder.events));
    }

    @Test
    void aSubscriberMayCancelARestartedReply() throws Exception {
        server.script(
                "PostUserQuery",
                List.of(started(), text("One"), text("Two"), BREAK),
                List.of(started(), text("One"), text("Three"), Step.hang()));
        Recorder recorder = new Recorder() {
            @Override
            public void onNext(PostUserQueryResponse event) {
                super.onNext(event);
                if (event.hasStarted() && events.size() > 1) {
                    subscription.cancel();
                }
            }
        };
        client.async().postUserQuery(QUERY).subscribe(recorder);
        recorder.subscription.request(Long.MAX_VALUE);
        Waiting.until(server.awaitCall(2).abandoned());
        client.close();
        assertEquals(List.of("started", "One", "Two", "started"), shown(recorder.events));
    }

    @Test
    void aSubscriberThatThrowsGetsNoMoreSignals() throws Exception {
        server.script("PostUserQuery", List.of(started(), text("One"), Step.hang()));
        CompletableFuture<Throwable> uncaught = new CompletableFuture<>();
        Recorder recorder = new Recorder() {
            @Override
            public void onNext(PostUserQueryResponse event) {
                super.onNext(event);
                Thread.currentThread().setUncaughtExceptionHandler((thread, error) -> uncaught.complete(error));
                throw new IllegalStateException("a bug");
            }
        };
        client.async().postUserQuery(QUERY).subscribe(recorder);
        recorder.subscription.request(10);
        Waiting.until(server.awaitCall(1).abandoned());
        assertEquals("a bug", Waiting.until(uncaught).getMessage());
        assertEquals(1, recorder.events.size());
    }

    @Test
    void aFinishedReplyIsGarbageCollected() throws Exception {
        server.script("PostUserQuery", turn("Hi"));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(10);
        Waiting.until(recorder.end);
        WeakReference<Flow.Subscription> subscription = new WeakReference<>(recorder.subscription);
        recorder.subscription = null;
        awaitGarbageCollection(subscription);
    }

    private static void awaitGarbageCollection(WeakReference<?> reference) {
        while (reference.get() != null) {
            assertFalse(Thread.interrupted(), "it is still reachable");
            System.gc();
        }
    }

    @Test
    void requestingNothingIsAnError() {
        server.script("PostUserQuery", List.of(started(), Step.hang()));
        Recorder recorder = subscribe(client.async().postUserQuery(QUERY));
        recorder.subscription.request(0);
        assertInstanceOf(IllegalArgumentException.class, recorder.failure());
    }

    @Test
    void subscribingToAClosedClientIsAnError() {
        ReplyPublisher reply = client.async().postUserQuery(QUERY);
        client.close();
        Recorder recorder = subscribe(reply);
        assertEquals(
                Status.Code.CANCELLED,
                assertInstanceOf(PalaverException.class, recorder.failure()).status());
    }

    @Test
    void theTimeoutStartsAtTheSubscription() {
        server.script("PostUserQuery", List.of(started(), Step.hang()));
        ReplyPublisher reply = client.async().postUserQuery(QUERY, Duration.ofMillis(100));
        for (int time = 0; time < 2; time++) {
            Recorder recorder = subscribe(reply);
            recorder.subscription.request(1);
            assertEquals(
                    Status.Code.DEADLINE_EXCEEDED,
                    assertInstanceOf(PalaverException.class, recorder.failure()).status());
        }
    }

    @Test
    void anInterceptorThatThrowsFailsTheCall() {
        ClientInterceptor broken = new ClientInterceptor() {
            @Override
            public <Q, R> ClientCall<Q, R> interceptCall(
                    MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
                throw new IllegalStateException("a bug");
            }
        };
        try (PalaverClient mine = PalaverClient.builder()
                .configureChannel(channel -> channel.intercept(broken))
                .build()) {
            Recorder recorder = subscribe(mine.async().postUserQuery(QUERY));
            assertEquals("a bug", recorder.failure().getCause().getMessage());
            assertThrows(PalaverException.class, () -> mine.postUserQueryUnary(QUERY));
        }
    }
}
