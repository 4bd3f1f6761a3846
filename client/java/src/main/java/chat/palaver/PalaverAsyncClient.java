package chat.palaver;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.GetAssistantResponse;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.ListMessagesResponse;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryUnaryResponse;
import chat.palaver.v1.TurnCompleted;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;

/**
 * The calls of a {@link PalaverClient} for code that does not block: {@link PalaverClient#async()} returns it. Both share
 * one connection, which the client closes.
 *
 * <p>A future that fails has a {@link PalaverException}. To cancel a future is to leave its call; that goes for the
 * future that was returned, and not for those derived from it. Futures are completed on gRPC's threads, so what is chained to
 * them must not block, or needs an executor of its own ({@code thenApplyAsync}).
 *
 * <p>Each method has a variant with a timeout, which is the deadline of that call instead of the client's: see {@link
 * PalaverClient}. All of them throw {@link IllegalStateException} when the client is closed.
 */
public final class PalaverAsyncClient {
    private final Connection connection;

    PalaverAsyncClient(Connection connection) {
        this.connection = connection;
    }

    /**
     * Creates an assistant, whose conversation then consists of its instructions alone.
     *
     * @param request the assistant and what to do when it exists
     * @return the assistant, and whether it is new
     */
    public CompletableFuture<CreateAssistantResponse> createAssistant(CreateAssistantRequest request) {
        return createAssistant(request, null);
    }

    /**
     * Creates an assistant, with a deadline of its own.
     *
     * @param request the assistant and what to do when it exists
     * @param timeout the deadline of this call, from now; null for the client's
     * @return the assistant, and whether it is new
     */
    public CompletableFuture<CreateAssistantResponse> createAssistant(
            CreateAssistantRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::createAssistant, request, Function.identity(), timeout);
    }

    /**
     * Returns the present state of an assistant. The call is repeated by itself while the server is unavailable.
     *
     * @param request the assistant
     * @return the assistant
     */
    public CompletableFuture<Assistant> getAssistant(GetAssistantRequest request) {
        return getAssistant(request, null);
    }

    /**
     * Returns the present state of an assistant, with a deadline of its own.
     *
     * @param request the assistant
     * @param timeout the deadline of this call, from now; null for the client's
     * @return the assistant
     */
    public CompletableFuture<Assistant> getAssistant(GetAssistantRequest request, Duration timeout) {
        return UnaryCall.once(
                connection, AssistantServiceStub::getAssistant, request, GetAssistantResponse::getAssistant, timeout);
    }

    /**
     * Returns one page of the messages of an assistant. The next one is got with the {@code next_page_token} as {@code
     * page_token}, until that is empty. The call is repeated by itself while the server is unavailable.
     *
     * @param request the assistant, which messages, and in which order
     * @return the page
     */
    public CompletableFuture<ListMessagesResponse> listMessages(ListMessagesRequest request) {
        return listMessages(request, null);
    }

    /**
     * Returns one page of the messages of an assistant, with a deadline of its own.
     *
     * @param request the assistant, which messages, and in which order
     * @param timeout the deadline of this call, from now; null for the client's
     * @return the page
     */
    public CompletableFuture<ListMessagesResponse> listMessages(ListMessagesRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::listMessages, request, Function.identity(), timeout);
    }

    /**
     * Deletes an assistant and all of its messages. This can't be undone.
     *
     * @param request the assistant
     * @return a future without a value
     */
    public CompletableFuture<Void> deleteAssistant(DeleteAssistantRequest request) {
        return deleteAssistant(request, null);
    }

    /**
     * Deletes an assistant and all of its messages, with a deadline of its own.
     *
     * @param request the assistant
     * @param timeout the deadline of this call, from now; null for the client's
     * @return a future without a value
     */
    public CompletableFuture<Void> deleteAssistant(DeleteAssistantRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::deleteAssistant, request, empty -> null, timeout);
    }

    /**
     * Posts a user message and streams the reply: a turn. It is posted when somebody subscribes.
     *
     * @param request the assistant, the message, the model and its parameters; without a {@code request_id} one is made
     * @return the reply
     */
    public ReplyPublisher postUserQuery(PostUserQueryRequest request) {
        return postUserQuery(request, null);
    }

    /**
     * Posts a user message and streams the reply, with a deadline of its own.
     *
     * @param request the assistant, the message, the model and its parameters; without a {@code request_id} one is made
     * @param timeout the deadline of the whole reply, from each subscription; null for the client's
     * @return the reply
     */
    public ReplyPublisher postUserQuery(PostUserQueryRequest request, Duration timeout) {
        connection.checkOpen();
        return new ReplyPublisher(connection, withRequestId(request), timeout);
    }

    /**
     * Posts a user message and returns when the turn is stored, with the whole reply. It is posted again when the
     * connection breaks.
     *
     * @param request the assistant, the message, the model and its parameters
     * @return the end of the turn, with its messages
     */
    public CompletableFuture<TurnCompleted> postUserQueryUnary(PostUserQueryRequest request) {
        return postUserQueryUnary(request, null);
    }

    /**
     * Posts a user message and returns when the turn is stored, with a deadline of its own.
     *
     * @param request the assistant, the message, the model and its parameters
     * @param timeout the deadline of the whole turn, from now; null for the client's
     * @return the end of the turn, with its messages
     */
    public CompletableFuture<TurnCompleted> postUserQueryUnary(PostUserQueryRequest request, Duration timeout) {
        return UnaryCall.untilAnswered(
                connection,
                AssistantServiceStub::postUserQueryUnary,
                withRequestId(request),
                PostUserQueryUnaryResponse::getCompleted,
                timeout);
    }

    /**
     * Ends a running turn of any caller, whatever its {@code on_disconnect} says. Nothing of the turn is stored.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @return a future without a value
     */
    public CompletableFuture<Void> cancelTurn(CancelTurnRequest request) {
        return cancelTurn(request, null);
    }

    /**
     * Ends a running turn of any caller, with a deadline of its own.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @param timeout the deadline of this call, from now; null for the client's
     * @return a future without a value
     */
    public CompletableFuture<Void> cancelTurn(CancelTurnRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::cancelTurn, request, empty -> null, timeout);
    }

    /** Gives a turn the identifier that makes it safe to post again. */
    static PostUserQueryRequest withRequestId(PostUserQueryRequest request) {
        return request.getRequestId().isEmpty()
                ? request.toBuilder()
                        .setRequestId(UUID.randomUUID().toString().replace("-", ""))
                        .build()
                : request;
    }
}
