package chat.palaver;

import static chat.palaver.support.Replies.completed;
import static chat.palaver.support.Replies.completedEvent;
import static chat.palaver.support.Replies.gotAssistant;
import static chat.palaver.support.Replies.progress;
import static chat.palaver.support.Replies.progressEvent;
import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.skillCall;
import static chat.palaver.support.Replies.skillResult;
import static chat.palaver.support.Replies.started;
import static chat.palaver.support.Replies.text;
import static chat.palaver.support.Replies.textEvent;
import static chat.palaver.support.Replies.turn;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.support.CallWatcher;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.support.Waiting;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import com.google.protobuf.UnknownFieldSet;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;

/** Tests a streamed reply on a stable connection. */
class ReplyTest {
    private static final PostUserQueryRequest QUERY = PostUserQueryRequest.newBuilder()
            .setId("support")
            .setUserMessage("Hello!")
            .setRequestId("mine")
            .setTemperature(0)
            .build();

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final PalaverClient client = PalaverClient.connect(server.target());

    private void script(Step... steps) {
        server.script("PostUserQuery", List.of(steps));
    }

    private static PalaverException failure(Runnable call) {
        return assertThrows(PalaverException.class, call::run);
    }

    private static void readAll(Iterable<?> iterable) {
        iterable.forEach(each -> {});
    }

    // Events.

    @Test
    void theRequestAndEventsArePassedOnUnchanged() {
        PostUserQueryResponse piece = textEvent("Hi").toBuilder().setSequence(2).build();
        script(started(), Step.send(piece), skillCall("1"), skillResult("1"), completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<PostUserQueryResponse> events = new ArrayList<>();
            assertEquals(Optional.empty(), reply.completed());
            reply.forEach(events::add);
            assertEquals(List.of("started", "Hi", "call 1", "result 1", "completed"), shown(events));
            assertEquals(piece, events.get(1));
            assertEquals(Optional.of(completedEvent().getCompleted()), reply.completed());
        }
        assertEquals(List.of(QUERY), server.requests("PostUserQuery"));
    }

    @Test
    void progressIsPassedOnUnchanged() {
        script(started(), progress(15), text("Hi"), progress(30), completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<PostUserQueryResponse> events = new ArrayList<>();
            reply.forEach(events::add);
            assertEquals(
                    List.of("started", "progress after 15 s", "Hi", "progress after 30 s", "completed"), shown(events));
            assertEquals(progressEvent(15), events.get(1));
        }
    }

    @Test
    void textOmitsTheOtherEvents() {
        script(
                started(),
                progress(15),
                text("Let me see. "),
                skillCall("1"),
                skillResult("1"),
                progress(30),
                text("Noon."),
                completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<String> pieces = new ArrayList<>();
            reply.text().forEach(pieces::add);
            assertEquals(List.of("Let me see. ", "Noon."), pieces);
            assertTrue(reply.completed().isPresent());
        }
    }

    @Test
    void iteratorsShareTheStream() {
        script(started(), text("One"), text("Two"), text("Three"), completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            assertEquals("started", shown(reply.iterator().next()));
            assertEquals("One", reply.text().iterator().next());
            Iterator<PostUserQueryResponse> rest = reply.iterator();
            assertTrue(rest.hasNext());
            assertEquals(List.of("Two", "Three", "completed"), shown(() -> rest));
            assertFalse(rest.hasNext());
            assertThrows(NoSuchElementException.class, rest::next);
            assertFalse(reply.text().iterator().hasNext());
        }
    }

    @Test
    void piecesAreDeliveredAsTheyArrive() throws Exception {
        CompletableFuture<Void> isRead = new CompletableFuture<>();
        script(started(), text("One"), Step.await(isRead), text("Two"), completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            Iterator<String> pieces = reply.text().iterator();
            assertEquals("One", pieces.next());
            isRead.complete(null);
            assertEquals("Two", pieces.next());
        }
    }

    @Test
    void unknownEventsAreSkippedAndUnknownFieldsKept() {
        var field = UnknownFieldSet.newBuilder()
                .addField(1012, UnknownFieldSet.Field.newBuilder().addVarint(1).build())
                .build();
        PostUserQueryResponse unknown =
                PostUserQueryResponse.newBuilder().setUnknownFields(field).build();
        PostUserQueryResponse newer =
                textEvent("Hi").toBuilder().setUnknownFields(field).build();
        script(started(), Step.send(unknown), Step.send(newer), completed(), Step.send(unknown));
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<PostUserQueryResponse> events = new ArrayList<>();
            reply.forEach(events::add);
            assertEquals(List.of("started", "Hi", "completed"), shown(events));
            assertEquals(newer, events.get(1));
        }
    }

    @Test
    void thousandsOfPiecesArriveInOrder() {
        List<String> pieces = new ArrayList<>();
        for (int index = 0; index < 5000; index++) {
            pieces.add(index + " ");
        }
        server.script("PostUserQuery", turn(pieces.toArray(new String[0])));
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<String> read = new ArrayList<>();
            reply.text().forEach(read::add);
            assertEquals(pieces, read);
        }
    }

    // The end.

    @Test
    void aStreamThatEndsWithoutCompletedIsAnError() {
        script(started(), text("Hi"));
        try (Reply reply = client.postUserQuery(QUERY)) {
            PalaverException error = failure(() -> readAll(reply));
            assertEquals(Status.Code.INTERNAL, error.status());
            assertEquals("", error.reason());
            assertEquals(Optional.empty(), reply.completed());
        }
        assertEquals(1, server.calls().size());
    }

    @Test
    void everythingAfterCompletedIsIgnored() {
        for (Step end : List.of(
                Step.fail(Status.UNAVAILABLE),
                Step.refuse(Status.Code.INTERNAL, "INTERNAL"),
                text("more"),
                Step.send(new byte[] {1, 2, 3}))) {
            script(started(), completed(), end);
            try (Reply reply = client.postUserQuery(QUERY)) {
                assertEquals(List.of("started", "completed"), shown(reply));
            }
        }
        assertEquals(4, server.calls().size());
    }

    @Test
    void aCompletedReplyEndsNormallyEvenIfItsStreamDoesNot() {
        script(started(), completed(), Step.hang());
        try (Reply reply = client.postUserQuery(QUERY)) {
            Iterator<PostUserQueryResponse> events = reply.iterator();
            assertEquals("started", shown(events.next()));
            assertEquals("completed", shown(events.next()));
            client.close();
            assertFalse(events.hasNext());
        }
    }

    @Test
    void anErrorIsThrownAfterTheEventsBeforeIt() {
        script(started(), text("Hi"), Step.refuse(Status.Code.UNAVAILABLE, "MODEL_STREAM_BROKEN"));
        try (Reply reply = client.postUserQuery(QUERY)) {
            List<PostUserQueryResponse> events = new ArrayList<>();
            PalaverException error = failure(() -> reply.forEach(events::add));
            assertEquals(List.of("started", "Hi"), shown(events));
            assertEquals("MODEL_STREAM_BROKEN", error.reason());
            assertTrue(List.of(error.getStackTrace()).stream()
                    .anyMatch(frame -> frame.getClassName().equals(ReplyTest.class.getName())));
            assertEquals("MODEL_STREAM_BROKEN", failure(() -> readAll(reply)).reason());
        }
    }

    @Test
    void anUnparsableEventIsInternal() throws Exception {
        script(started(), Step.send(new byte[] {1, 2, 3}), Step.hang());
        try (Reply reply = client.postUserQuery(QUERY)) {
            assertEquals(Status.Code.INTERNAL, failure(() -> readAll(reply)).status());
        }
        Waiting.until(server.awaitCall(1).abandoned());
        assertEquals(1, server.calls().size());
    }

    // Cancellation.

    @Test
    void leavingTheTryStatementEndsTheCall() throws Exception {
        script(started(), text("Hi"), Step.hang());
        try (Reply reply = client.postUserQuery(QUERY)) {
            for (String text : reply.text()) {
                assertEquals("Hi", text);
                break;
            }
        }
        Waiting.until(server.awaitCall(1).abandoned());
    }

    @Test
    @SuppressWarnings("MustBeClosed") // the test closes it
    void anUnreadReplyCanBeClosed() throws Exception {
        script(started(), text("Hi"), Step.hang());
        Reply reply = client.postUserQuery(QUERY);
        ScriptedServer.Call call = server.awaitCall(1);
        reply.close();
        Waiting.until(call.abandoned());
        assertEquals(Status.Code.CANCELLED, failure(() -> readAll(reply)).status());
    }

    @Test
    @SuppressWarnings("MustBeClosed") // the test closes it
    void aReplyCanBeClosedBeforeItsCallReachesTheServer() {
        script(started(), Step.hang());
        for (int time = 0; time < 50; time++) {
            Reply reply = client.postUserQuery(QUERY);
            reply.close();
            assertEquals(Status.Code.CANCELLED, failure(() -> readAll(reply)).status());
        }
        script(started(), completed());
        try (Reply reply = client.postUserQuery(QUERY)) {
            readAll(reply);
        }
    }

    @Test
    @SuppressWarnings("try") // the test closes it
    void anotherThreadCanCloseAReply() throws Exception {
        script(started(), Step.hang());
        try (Reply reply = client.postUserQuery(QUERY)) {
            CompletableFuture<Void> hasBegun = new CompletableFuture<>();
            CompletableFuture<PalaverException> error =
                    CompletableFuture.supplyAsync(() -> failure(() -> reply.forEach(event -> hasBegun.complete(null))));
            Waiting.until(hasBegun);
            reply.close();
            assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
            Waiting.until(server.awaitCall(1).abandoned());
        }
    }

    @Test
    void anInterruptEndsTheCall() throws Exception {
        script(started(), Step.hang());
        CompletableFuture<Void> hasBegun = new CompletableFuture<>();
        CompletableFuture<PalaverException> error = new CompletableFuture<>();
        CompletableFuture<Boolean> isInterrupted = new CompletableFuture<>();
        try (Reply reply = client.postUserQuery(QUERY)) {
            Thread thread = new Thread(() -> {
                error.complete(failure(() -> reply.forEach(event -> hasBegun.complete(null))));
                isInterrupted.complete(Thread.currentThread().isInterrupted());
            });
            thread.start();
            Waiting.until(hasBegun);
            thread.interrupt();
            assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
            assertInstanceOf(InterruptedException.class, error.get().getCause());
            assertTrue(Waiting.until(isInterrupted));
            Waiting.until(server.awaitCall(1).abandoned());
        }
    }

    @Test
    @SuppressWarnings("MustBeClosed") // the test closes it
    void closingAfterTheEndDoesNothing() {
        script(started(), completed());
        Reply reply = client.postUserQuery(QUERY);
        readAll(reply);
        reply.close();
        reply.close();
        assertFalse(reply.iterator().hasNext());
        assertTrue(reply.completed().isPresent());
        assertFalse(server.calls().get(0).abandoned().isDone());
    }

    @Test
    void closingTheClientEndsItsReplies() throws Exception {
        script(started(), Step.hang());
        try (Reply read = client.postUserQuery(QUERY);
                Reply unread = client.postUserQuery(QUERY)) {
            assertEquals("started", shown(read.iterator().next()));
            server.awaitCall(2);
            client.close();
            PalaverException error = failure(() -> readAll(read));
            assertEquals(Status.Code.CANCELLED, error.status());
            assertEquals(Status.Code.CANCELLED, failure(() -> readAll(unread)).status());
        }
        Waiting.until(server.awaitCall(1).abandoned());
        Waiting.until(server.awaitCall(2).abandoned());
    }

    @Test
    @SuppressWarnings("MustBeClosed") // a false positive
    void aReplyEndsWithItsContext() throws Exception {
        var delay = RetryInfo.newBuilder()
                .setRetryDelay(com.google.protobuf.Duration.newBuilder().setNanos(1_000_000))
                .build();
        server.script(
                "PostUserQuery",
                List.of(started(), Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", delay)),
                List.of(started(), Step.hang()));
        try (Context.CancellableContext context = Context.current().withCancellation();
                Reply reply = context.call(() -> client.postUserQuery(QUERY))) {
            ScriptedServer.Call again = server.awaitCall(2);
            context.cancel(null);
            assertEquals(Status.Code.CANCELLED, failure(() -> readAll(reply)).status());
            Waiting.until(again.abandoned());
        }
    }

    // Deadlines.

    @Test
    void aReplyEndsWhenItsTimeoutExpires() throws Exception {
        script(started(), Step.hang());
        try (Reply reply = client.postUserQuery(QUERY, Duration.ofMillis(200))) {
            assertEquals(
                    Status.Code.DEADLINE_EXCEEDED, failure(() -> readAll(reply)).status());
        }
        Waiting.until(server.awaitCall(1).abandoned());
    }

    @Test
    void theClientsTimeoutAppliesToReplies() throws Exception {
        script(started(), completed());
        try (PalaverClient impatient = PalaverClient.builder()
                .target(server.target())
                .timeout(Duration.ofSeconds(1000))
                .build()) {
            try (Reply reply = impatient.postUserQuery(QUERY)) {
                readAll(reply);
            }
            try (Reply reply = impatient.postUserQuery(QUERY, Duration.ofSeconds(5000))) {
                readAll(reply);
            }
        }
        assertTrue(server.awaitCall(1).deadline().timeRemaining(TimeUnit.SECONDS) <= 1000);
        assertTrue(server.awaitCall(2).deadline().timeRemaining(TimeUnit.SECONDS) > 4000);
    }

    // Backpressure.

    @Test
    void aSlowReaderSlowsTheServer() throws Exception {
        CompletableFuture<Void> stalled = new CompletableFuture<>();
        int count = 3000;
        script(started(), Step.flood(textEvent("x".repeat(10_000)), count, stalled), completed());
        server.script("GetAssistant", List.of(gotAssistant()));
        CallWatcher watcher = new CallWatcher();
        try (PalaverClient counting = PalaverClient.builder()
                        .target(server.target())
                        .configureChannel(channel -> channel.intercept(watcher))
                        .build();
                Reply reply = counting.postUserQuery(QUERY)) {
            assertEquals("started", shown(reply.iterator().next()));
            Waiting.until(stalled);
            // Messages in transit would arrive before the responses to these calls on the same connection.
            for (int call = 0; call < 200; call++) {
                counting.getAssistant(GetAssistantRequest.getDefaultInstance());
            }
            assertEquals(2, watcher.messages());
            int pieces = 0;
            for (String text : reply.text()) {
                pieces += text.isEmpty() ? 0 : 1;
            }
            assertEquals(count, pieces);
        }
    }
}
