package chat.palaver;

import static chat.palaver.support.Replies.assistant;
import static chat.palaver.support.Replies.completedUnary;
import static chat.palaver.support.Replies.gotAssistant;
import static chat.palaver.support.Replies.turn;
import static chat.palaver.support.Replies.turnCompleted;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import chat.palaver.PalaverException.FieldViolation;
import chat.palaver.support.CallWatcher;
import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.support.Waiting;
import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CancelTurnResponse;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.DeleteAssistantResponse;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.ListMessagesResponse;
import chat.palaver.v1.Message;
import chat.palaver.v1.Order;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Help;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Tests the unary calls, and what all calls have in common. */
class CallsTest {
    private static final GetAssistantRequest GET =
            GetAssistantRequest.newBuilder().setId("support").build();
    private static final PostUserQueryRequest QUERY = PostUserQueryRequest.newBuilder()
            .setId("support")
            .setUserMessage("Hello!")
            .build();
    private static final Status NOTHING = Status.NOT_FOUND.withDescription("nothing");
    private static final Step BREAK = Step.fail(Status.UNAVAILABLE.withDescription("Socket closed"));

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final PalaverClient client = PalaverClient.connect(server.target());

    private static List<Step> answer(com.google.protobuf.Message response) {
        return List.of(Step.send(response));
    }

    @Test
    void requestsAndResponsesArePassedOnUnchanged() {
        CreateAssistantRequest create = CreateAssistantRequest.newBuilder()
                .setId("support")
                .setInstructions("")
                .build();
        CreateAssistantResponse created = CreateAssistantResponse.newBuilder()
                .setAssistant(assistant())
                .setCreated(true)
                .build();
        DeleteAssistantRequest delete =
                DeleteAssistantRequest.newBuilder().setId("support").build();
        CancelTurnRequest cancel = CancelTurnRequest.newBuilder()
                .setId("support")
                .setRequestId("mine")
                .build();
        server.script("CreateAssistant", answer(created));
        server.script("GetAssistant", List.of(gotAssistant()));
        server.script("DeleteAssistant", answer(DeleteAssistantResponse.getDefaultInstance()));
        server.script("CancelTurn", answer(CancelTurnResponse.getDefaultInstance()));
        server.script("PostUserQueryUnary", List.of(completedUnary()));
        PostUserQueryRequest query = QUERY.toBuilder()
                .setRequestId("mine")
                .setTemperature(0)
                .setMaxTokens(0)
                .build();

        assertEquals(created, client.createAssistant(create));
        assertEquals(assistant(), client.getAssistant(GET));
        client.deleteAssistant(delete);
        client.cancelTurn(cancel);
        assertEquals(turnCompleted(), client.postUserQueryUnary(query));
        assertEquals(
                List.of(create, GET, delete, cancel, query),
                server.calls().stream().map(ScriptedServer.Call::request).toList());
    }

    @Test
    void anUnsetFieldDiffersFromZero() {
        server.script("PostUserQueryUnary", List.of(completedUnary()));
        client.postUserQueryUnary(QUERY);
        client.postUserQueryUnary(QUERY.toBuilder().setTemperature(0).build());
        var requests = server.requests("PostUserQueryUnary");
        assertFalse(((PostUserQueryRequest) requests.get(0)).hasTemperature());
        assertTrue(((PostUserQueryRequest) requests.get(1)).hasTemperature());
    }

    @Test
    void messagesOfAllPagesAreFetchedLazily() {
        List<Message> messages = IntStream.rangeClosed(1, 5)
                .mapToObj(index -> Message.newBuilder().setIndex(index).build())
                .toList();
        server.script(
                "ListMessages",
                answer(page("a", messages.subList(0, 2))),
                answer(page("b", List.of())),
                answer(page("", messages.subList(2, 5))));
        ListMessagesRequest request = ListMessagesRequest.newBuilder()
                .setId("support")
                .setPageSize(2)
                .setOrder(Order.ORDER_NEWEST_FIRST)
                .build();

        Stream<Message> stream = client.listMessages(request);
        assertEquals(0, server.calls().size());
        var iterator = stream.iterator();
        assertEquals(messages.get(0), iterator.next());
        assertEquals(messages.get(1), iterator.next());
        assertEquals(1, server.calls().size());
        List<Message> rest = new ArrayList<>();
        iterator.forEachRemaining(rest::add);
        assertEquals(messages.subList(2, 5), rest);
        assertEquals(
                Stream.of("", "a", "b")
                        .map(token -> request.toBuilder().setPageToken(token).build())
                        .toList(),
                server.requests("ListMessages"));
    }

    private static ListMessagesResponse page(String nextToken, List<Message> messages) {
        return ListMessagesResponse.newBuilder()
                .addAllMessages(messages)
                .setNextPageToken(nextToken)
                .build();
    }

    @Test
    void aPageMayExceedTheDefaultLimitOfGrpc() {
        String content = "x".repeat(5 << 20);
        server.script(
                "ListMessages",
                answer(page("", List.of(Message.newBuilder().setContent(content).build()))));
        assertEquals(
                content,
                client.listMessages(ListMessagesRequest.getDefaultInstance())
                        .findFirst()
                        .orElseThrow()
                        .getContent());
    }

    @Test
    void unknownEnumNumbersAreKept() {
        server.script(
                "ListMessages",
                answer(page("", List.of(Message.newBuilder().setRoleValue(77).build()))));
        assertEquals(
                77,
                client.listMessages(ListMessagesRequest.getDefaultInstance())
                        .findFirst()
                        .orElseThrow()
                        .getRoleValue());
    }

    // Retries.

    @Test
    void readsAreRetriedWhileTheServerIsUnavailable() {
        server.script("GetAssistant", List.of(BREAK), List.of(BREAK), List.of(BREAK), List.of(gotAssistant()));
        assertEquals(assistant(), client.getAssistant(GET));
        assertEquals(4, server.calls().size());
        server.script("ListMessages", List.of(BREAK), answer(page("", List.of())));
        assertEquals(
                0, client.listMessages(ListMessagesRequest.getDefaultInstance()).count());
    }

    @Test
    void readsAreRetriedThreeTimes() {
        server.script("GetAssistant", List.of(BREAK));
        assertEquals(
                Status.Code.UNAVAILABLE, failure(() -> client.getAssistant(GET)).status());
        assertEquals(4, server.calls().size());
    }

    @Test
    void callsThatAreNotIdempotentAreNotRetried() {
        for (String method : List.of("CreateAssistant", "DeleteAssistant", "CancelTurn")) {
            server.script(method, List.of(BREAK));
        }
        failure(() -> client.createAssistant(CreateAssistantRequest.getDefaultInstance()));
        failure(() -> client.deleteAssistant(DeleteAssistantRequest.getDefaultInstance()));
        failure(() -> client.cancelTurn(CancelTurnRequest.getDefaultInstance()));
        assertEquals(3, server.calls().size());
    }

    @Test
    void aUnaryTurnIsPostedAgainWithTheSameRequest() {
        server.script(
                "PostUserQueryUnary",
                List.of(BREAK),
                List.of(Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN")),
                List.of(completedUnary()));
        assertEquals(turnCompleted(), client.postUserQueryUnary(QUERY));
        var requests = server.requests("PostUserQueryUnary");
        assertEquals(3, requests.size());
        assertEquals(1, requests.stream().distinct().count());
    }

    @Test
    void eachTurnHasItsOwnRequestIdUnlessTheCallerSetsOne() {
        server.script("PostUserQuery", turn("Hi"));
        server.script("PostUserQueryUnary", List.of(completedUnary()));
        String first;
        try (Reply reply = client.postUserQuery(QUERY)) {
            first = reply.requestId();
            reply.forEach(event -> {});
        }
        client.postUserQueryUnary(QUERY);
        try (Reply reply =
                client.postUserQuery(QUERY.toBuilder().setRequestId("mine").build())) {
            assertEquals("mine", reply.requestId());
            reply.forEach(event -> {});
        }
        List<String> sent = server.calls().stream()
                .map(call -> ((PostUserQueryRequest) call.request()).getRequestId())
                .toList();
        assertTrue(first.matches("[0-9a-f]{32}"), first);
        assertTrue(sent.get(1).matches("[0-9a-f]{32}"), sent.get(1));
        assertEquals(List.of(first, sent.get(1), "mine"), sent);
        assertNotEquals(first, sent.get(1));
    }

    // Errors.

    @Test
    void anErrorHasAllDetailsOfTheServer() {
        server.script(
                "GetAssistant",
                List.of(Step.fail(
                        Status.INVALID_ARGUMENT.withDescription("two fields are wrong"),
                        Help.getDefaultInstance(),
                        ErrorInfo.newBuilder()
                                .setDomain("palaver.v1")
                                .setReason("INVALID_FIELD")
                                .build(),
                        ErrorInfo.newBuilder()
                                .setDomain("gateway.example")
                                .setReason("DENIED")
                                .build(),
                        BadRequest.newBuilder()
                                .addFieldViolations(violation("id", "must not be empty"))
                                .addFieldViolations(violation("history.max_messages", "at least 0"))
                                .build(),
                        RetryInfo.newBuilder()
                                .setRetryDelay(
                                        Duration.newBuilder().setSeconds(1).setNanos(500_000_000))
                                .build())));
        PalaverException error = failure(() -> client.getAssistant(GET));
        assertEquals(Status.Code.INVALID_ARGUMENT, error.status());
        assertEquals("two fields are wrong", error.description());
        assertEquals("two fields are wrong (INVALID_ARGUMENT, INVALID_FIELD)", error.getMessage());
        assertEquals("INVALID_FIELD", error.reason());
        assertEquals(
                List.of(
                        new FieldViolation("id", "must not be empty"),
                        new FieldViolation("history.max_messages", "at least 0")),
                error.fieldViolations());
        assertEquals(Optional.of(java.time.Duration.ofMillis(1500)), error.retryDelay());
    }

    private static BadRequest.FieldViolation violation(String field, String description) {
        return BadRequest.FieldViolation.newBuilder()
                .setField(field)
                .setDescription(description)
                .build();
    }

    @Test
    void anErrorMayLackDetails() {
        server.script("GetAssistant", List.of(Step.fail(Status.PERMISSION_DENIED.withDescription("not you"))));
        PalaverException error = failure(() -> client.getAssistant(GET));
        assertEquals("not you (PERMISSION_DENIED)", error.getMessage());
        assertEquals("", error.reason());
        assertEquals(List.of(), error.fieldViolations());
        assertEquals(Optional.empty(), error.retryDelay());
    }

    static List<Step> errorsWithForeignDetails() {
        Any broken = Any.newBuilder()
                .setTypeUrl("type.googleapis.com/google.rpc.ErrorInfo")
                .setValue(ByteString.copyFromUtf8("\0\0\0"))
                .build();
        var rich = com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.NOT_FOUND.value())
                .setMessage("nothing")
                .addDetails(broken)
                .build();
        Metadata garbage = new Metadata();
        garbage.put(Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {1, 2, 3});
        return List.of(
                Step.fail(
                        NOTHING,
                        ErrorInfo.newBuilder()
                                .setDomain("gateway.example")
                                .setReason("ASSISTANT_NOT_FOUND")
                                .build()),
                fail(StatusProto.toStatusRuntimeException(rich)),
                fail(NOTHING.asRuntimeException(garbage)),
                // The details belong to a different status.
                fail(NOTHING.asRuntimeException(StatusProto.toStatusRuntimeException(rich.toBuilder()
                                .setCode(Status.Code.ABORTED.value())
                                .clearDetails()
                                .build())
                        .getTrailers())));
    }

    private static Step fail(StatusRuntimeException error) {
        return (call, answer) -> call.end(() -> answer.onError(error));
    }

    @ParameterizedTest
    @MethodSource("errorsWithForeignDetails")
    void foreignDetailsAreIgnored(Step error) {
        server.script("GetAssistant", List.of(error));
        PalaverException caught = failure(() -> client.getAssistant(GET));
        assertEquals("nothing (NOT_FOUND)", caught.getMessage());
        assertEquals("", caught.reason());
    }

    @Test
    void anUnparsableResponseIsInternal() {
        server.script("GetAssistant", List.of(Step.send(new byte[] {1, 2, 3})));
        PalaverException error = failure(() -> client.getAssistant(GET));
        assertEquals(Status.Code.INTERNAL, error.status());
        assertEquals("", error.reason());
    }

    @Test
    void aResponseWithoutItsContentIsInternal() {
        server.script(
                "CreateAssistant",
                answer(CreateAssistantResponse.newBuilder().setCreated(true).build()));
        server.script("GetAssistant", answer(GetAssistantResponse.getDefaultInstance()));
        server.script("PostUserQueryUnary", answer(PostUserQueryUnaryResponse.getDefaultInstance()));
        CreateAssistantRequest create = CreateAssistantRequest.getDefaultInstance();
        for (PalaverException error : List.of(
                failure(() -> client.createAssistant(create)),
                failure(() -> client.getAssistant(GET)),
                failure(() -> client.postUserQueryUnary(QUERY)),
                failure(client.async().createAssistant(create)),
                failure(client.async().getAssistant(GET)),
                failure(client.async().postUserQueryUnary(QUERY)))) {
            assertEquals(Status.Code.INTERNAL, error.status());
            assertEquals("", error.reason());
        }
        assertEquals(6, server.calls().size());
    }

    @Test
    void aCallThatTheProgramCancelsIsCancelled() {
        Status cancelled = Status.CANCELLED.withDescription("RPC cancelled"); // like gRPC's servers
        PalaverException error = PalaverException.of(
                cancelled.withCause(cancelled.asRuntimeException()).asRuntimeException());
        assertEquals(Status.Code.CANCELLED, error.status());
    }

    @Test
    void theStackTraceIsThatOfTheCaller() {
        server.script("GetAssistant", List.of(Step.fail(Status.NOT_FOUND)));
        PalaverException error = failure(() -> client.getAssistant(GET));
        assertTrue(Stream.of(error.getStackTrace())
                .anyMatch(frame -> frame.getClassName().equals(CallsTest.class.getName())));
    }

    @Test
    void aMissingServerIsUnavailable() {
        try (PalaverClient lost = PalaverClient.builder()
                .target("127.0.0.1:9")
                .reconnectTimeout(java.time.Duration.ofMillis(200))
                .build()) {
            PalaverException error = failure(() -> lost.postUserQueryUnary(QUERY));
            assertEquals(Status.Code.UNAVAILABLE, error.status());
            assertTrue(error.description().contains("Connection refused"), error.description());
            assertEquals("", error.reason());
        }
    }

    // Deadlines and cancellation.

    @Test
    void theTimeoutOfACallOverridesTheClients() throws Exception {
        server.script("GetAssistant", List.of(gotAssistant()));
        try (PalaverClient impatient = PalaverClient.builder()
                .target(server.target())
                .timeout(java.time.Duration.ofSeconds(1000))
                .build()) {
            client.getAssistant(GET);
            client.getAssistant(GET, java.time.Duration.ofSeconds(5000));
            impatient.getAssistant(GET);
            impatient.getAssistant(GET, java.time.Duration.ofSeconds(5000));
            impatient.getAssistant(GET, ChronoUnit.FOREVER.getDuration());
        }
        assertNull(server.awaitCall(1).deadline());
        assertBetween(4000, 5000, server.awaitCall(2));
        assertBetween(900, 1000, server.awaitCall(3));
        assertBetween(4000, 5000, server.awaitCall(4));
        assertNull(server.awaitCall(5).deadline());
    }

    private static void assertBetween(long least, long most, ScriptedServer.Call call) {
        long seconds = call.deadline().timeRemaining(TimeUnit.SECONDS);
        assertTrue(least <= seconds && seconds <= most, seconds + " s");
    }

    @Test
    void aCallEndsWhenItsTimeoutExpires() {
        server.script("GetAssistant", List.of(Step.hang()));
        PalaverException error = failure(() -> client.getAssistant(GET, java.time.Duration.ofMillis(50)));
        assertEquals(Status.Code.DEADLINE_EXCEEDED, error.status());
        assertEquals(
                Status.Code.DEADLINE_EXCEEDED,
                failure(() -> client.getAssistant(GET, java.time.Duration.ZERO)).status());
    }

    @Test
    void allPostsOfATurnShareItsDeadline() throws Exception {
        var delay = RetryInfo.newBuilder()
                .setRetryDelay(Duration.newBuilder().setSeconds(2))
                .build();
        server.script(
                "PostUserQueryUnary",
                List.of(Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", delay)),
                List.of(completedUnary()));
        client.postUserQueryUnary(QUERY, java.time.Duration.ofSeconds(60));
        var first = server.awaitCall(1).deadline();
        var second = server.awaitCall(2).deadline();
        // gRPC rounds the timeout on the wire, by less than the limit here.
        long difference =
                Math.abs(first.timeRemaining(TimeUnit.MILLISECONDS) - second.timeRemaining(TimeUnit.MILLISECONDS));
        assertTrue(difference < 1000, difference + " ms");
    }

    @Test
    void anInterruptCancelsTheCall() throws Exception {
        server.script("GetAssistant", List.of(Step.hang()));
        CompletableFuture<PalaverException> error = new CompletableFuture<>();
        CompletableFuture<Boolean> isInterrupted = new CompletableFuture<>();
        Thread thread = new Thread(() -> {
            error.complete(failure(() -> client.getAssistant(GET)));
            isInterrupted.complete(Thread.currentThread().isInterrupted());
        });
        thread.start();
        ScriptedServer.Call call = server.awaitCall(1);
        thread.interrupt();
        assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
        assertInstanceOf(InterruptedException.class, error.get().getCause());
        assertTrue(Waiting.until(isInterrupted));
        Waiting.until(call.abandoned());
    }

    @Test
    void anInterruptCancelsATurnBetweenTwoPosts() throws Exception {
        var delay = RetryInfo.newBuilder()
                .setRetryDelay(Duration.newBuilder().setSeconds(1000))
                .build();
        server.script("PostUserQueryUnary", List.of(Step.refuse(Status.Code.UNAVAILABLE, "SHUTTING_DOWN", delay)));
        CallWatcher watcher = new CallWatcher();
        try (PalaverClient patient = PalaverClient.builder()
                .target(server.target())
                .reconnectTimeout(java.time.Duration.ofSeconds(2000))
                .configureChannel(channel -> channel.intercept(watcher))
                .build()) {
            CompletableFuture<PalaverException> error = new CompletableFuture<>();
            Thread thread = new Thread(() -> error.complete(failure(() -> patient.postUserQueryUnary(QUERY))));
            thread.start();
            watcher.awaitEnds(1);
            thread.interrupt();
            assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
        }
        assertEquals(1, server.calls().size());
    }

    @Test
    void cancellingAFutureCancelsItsCall() throws Exception {
        server.script("GetAssistant", List.of(Step.hang()));
        server.script("PostUserQueryUnary", List.of(Step.hang()));
        CompletableFuture<?> first = client.async().getAssistant(GET);
        ScriptedServer.Call call = server.awaitCall(1);
        first.cancel(true);
        Waiting.until(call.abandoned());
        CompletableFuture<?> second = client.async().postUserQueryUnary(QUERY);
        call = server.awaitCall(2);
        second.cancel(true);
        Waiting.until(call.abandoned());
    }

    @Test
    void aFutureFailsWithAPalaverException() {
        server.script("GetAssistant", List.of(Step.refuse(Status.Code.NOT_FOUND, "ASSISTANT_NOT_FOUND")));
        assertEquals(
                "ASSISTANT_NOT_FOUND", failure(client.async().getAssistant(GET)).reason());
    }

    @Test
    void aCallEndsWithItsContext() throws Exception {
        server.script("PostUserQueryUnary", List.of(Step.hang()));
        Context.CancellableContext context = Context.current().withCancellation();
        var future = context.call(() -> client.async().postUserQueryUnary(QUERY));
        ScriptedServer.Call call = server.awaitCall(1);
        context.cancel(Status.CANCELLED.withDescription("RPC cancelled").asRuntimeException()); // like gRPC's servers
        assertEquals(Status.Code.CANCELLED, failure(future).status());
        Waiting.until(call.abandoned());
    }

    @Test
    void closingTheClientEndsItsCalls() throws Exception {
        server.script("GetAssistant", List.of(Step.hang()));
        CompletableFuture<PalaverException> error =
                CompletableFuture.supplyAsync(() -> failure(() -> client.getAssistant(GET)));
        ScriptedServer.Call call = server.awaitCall(1);
        client.close();
        assertEquals(Status.Code.CANCELLED, Waiting.until(error).status());
        Waiting.until(call.abandoned());
        client.close();
    }

    @Test
    void aClosedClientRejectsCalls() {
        client.close();
        assertThrows(IllegalStateException.class, () -> client.getAssistant(GET));
        assertThrows(IllegalStateException.class, () -> client.listMessages(ListMessagesRequest.getDefaultInstance()));
        assertThrows(IllegalStateException.class, () -> client.postUserQueryUnary(QUERY));
        assertThrows(IllegalStateException.class, () -> client.async().postUserQuery(QUERY));
    }

    @Test
    void aClientIsThreadSafe() throws Exception {
        server.script("GetAssistant", List.of(gotAssistant()));
        List<CompletableFuture<Assistant>> futures = IntStream.range(0, 200)
                .mapToObj(index -> CompletableFuture.supplyAsync(() -> client.getAssistant(GET)))
                .toList();
        for (CompletableFuture<Assistant> future : futures) {
            assertEquals(assistant(), Waiting.until(future));
        }
    }

    private static PalaverException failure(Runnable call) {
        return assertThrows(PalaverException.class, call::run);
    }

    private static PalaverException failure(CompletableFuture<?> call) {
        ExecutionException error = assertThrows(ExecutionException.class, () -> Waiting.until(call));
        return assertInstanceOf(PalaverException.class, error.getCause());
    }
}
