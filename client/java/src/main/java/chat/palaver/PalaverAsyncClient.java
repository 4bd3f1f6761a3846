package chat.palaver;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.ListMessagesResponse;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.TurnCompleted;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;

/**
 * The asynchronous calls of a {@link PalaverClient}, which {@link PalaverClient#async()} returns. Both share one
 * connection. Closing the client closes it.
 *
 * <p>The error of a future is always a {@link PalaverException}. Cancelling a future cancels its call; cancelling one that is
 * derived from it does not. Futures complete on gRPC's threads, so their dependent stages must not block, or must run on
 * another executor ({@code thenApplyAsync}).
 *
 * <p>Each method has a variant with a timeout, which replaces the client's timeout: see {@link PalaverClient}. All methods
 * throw {@link IllegalStateException} if the client is closed.
 */
public final class PalaverAsyncClient {
    private final Connection connection;

    PalaverAsyncClient(Connection connection) {
        this.connection = connection;
    }

    /**
     * Creates an assistant. Its conversation starts with only its instructions.
     *
     * @param request the assistant, and what to do if it exists
     * @return the assistant, and whether it was created
     */
    public CompletableFuture<CreateAssistantResponse> createAssistant(CreateAssistantRequest request) {
        return createAssistant(request, null);
    }

    /**
     * Creates an assistant, with its own timeout.
     *
     * @param request the assistant, and what to do if it exists
     * @param timeout the timeout of this call, or null for the client's
     * @return the assistant, and whether it was created
     */
    public CompletableFuture<CreateAssistantResponse> createAssistant(
            CreateAssistantRequest request, Duration timeout) {
        return UnaryCall.once(
                connection, AssistantServiceStub::createAssistant, request, Responses::createdAssistant, timeout);
    }

    /**
     * Returns the current state of an assistant. The call is retried while the server is unavailable.
     *
     * @param request the assistant
     * @return the assistant
     */
    public CompletableFuture<Assistant> getAssistant(GetAssistantRequest request) {
        return getAssistant(request, null);
    }

    /**
     * Returns the current state of an assistant, with its own timeout.
     *
     * @param request the assistant
     * @param timeout the timeout of this call, or null for the client's
     * @return the assistant
     */
    public CompletableFuture<Assistant> getAssistant(GetAssistantRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::getAssistant, request, Responses::assistant, timeout);
    }

    /**
     * Returns one page of the messages of an assistant. To get the next page, pass {@code next_page_token} as {@code
     * page_token}; it is empty on the last page. The call is retried while the server is unavailable.
     *
     * @param request the assistant, and the filter and order of the messages
     * @return the page
     */
    public CompletableFuture<ListMessagesResponse> listMessages(ListMessagesRequest request) {
        return listMessages(request, null);
    }

    /**
     * Returns one page of the messages of an assistant, with its own timeout.
     *
     * @param request the assistant, and the filter and order of the messages
     * @param timeout the timeout of this call, or null for the client's
     * @return the page
     */
    public CompletableFuture<ListMessagesResponse> listMessages(ListMessagesRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::listMessages, request, Function.identity(), timeout);
    }

    /**
     * Deletes an assistant and all of its messages permanently.
     *
     * @param request the assistant
     * @return a future that completes with null
     */
    public CompletableFuture<Void> deleteAssistant(DeleteAssistantRequest request) {
        return deleteAssistant(request, null);
    }

    /**
     * Deletes an assistant and all of its messages, with its own timeout.
     *
     * @param request the assistant
     * @param timeout the timeout of this call, or null for the client's
     * @return a future that completes with null
     */
    public CompletableFuture<Void> deleteAssistant(DeleteAssistantRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::deleteAssistant, request, empty -> null, timeout);
    }

    /**
     * Posts a user message and streams the reply. Each subscription posts the turn.
     *
     * @param request the assistant, the message, the model and its parameters; the client generates a missing {@code
     *     request_id}
     * @return the reply
     */
    public ReplyPublisher postUserQuery(PostUserQueryRequest request) {
        return postUserQuery(request, null);
    }

    /**
     * Posts a user message and streams the reply, with its own timeout.
     *
     * @param request the assistant, the message, the model and its parameters; the client generates a missing {@code
     *     request_id}
     * @param timeout the timeout of the whole reply, from the subscription, or null for the client's
     * @return the reply
     */
    public ReplyPublisher postUserQuery(PostUserQueryRequest request, Duration timeout) {
        connection.checkOpen();
        return new ReplyPublisher(connection, withRequestId(request), timeout);
    }

    /**
     * Posts a user message and returns the last event of the reply once the turn is stored. The turn is posted again when
     * the connection breaks, like that of a {@link ReplyPublisher}.
     *
     * @param request the assistant, the message, the model and its parameters
     * @return the stored turn, with its messages
     */
    public CompletableFuture<TurnCompleted> postUserQueryUnary(PostUserQueryRequest request) {
        return postUserQueryUnary(request, null);
    }

    /**
     * Posts a user message and returns the last event of the reply, with its own timeout.
     *
     * @param request the assistant, the message, the model and its parameters
     * @param timeout the timeout of the whole turn, or null for the client's
     * @return the stored turn, with its messages
     */
    public CompletableFuture<TurnCompleted> postUserQueryUnary(PostUserQueryRequest request, Duration timeout) {
        return UnaryCall.untilAnswered(
                connection,
                AssistantServiceStub::postUserQueryUnary,
                withRequestId(request),
                Responses::completed,
                timeout);
    }

    /**
     * Cancels a running turn of any caller, regardless of its {@code on_disconnect}. The turn is not stored.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @return a future that completes with null
     */
    public CompletableFuture<Void> cancelTurn(CancelTurnRequest request) {
        return cancelTurn(request, null);
    }

    /**
     * Cancels a running turn of any caller, with its own timeout.
     *
     * @param request the assistant and the {@code request_id} of the turn
     * @param timeout the timeout of this call, or null for the client's
     * @return a future that completes with null
     */
    public CompletableFuture<Void> cancelTurn(CancelTurnRequest request, Duration timeout) {
        return UnaryCall.once(connection, AssistantServiceStub::cancelTurn, request, empty -> null, timeout);
    }

    /** Returns the request with a {@code request_id}, which makes the turn safe to post again. */
    static PostUserQueryRequest withRequestId(PostUserQueryRequest request) {
        return request.getRequestId().isEmpty()
                ? request.toBuilder()
                        .setRequestId(UUID.randomUUID().toString().replace("-", ""))
                        .build()
                : request;
    }
}
