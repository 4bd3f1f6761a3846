package chat.palaver.conformance;

import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.Message;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.TurnCompleted;
import java.time.Duration;
import java.util.function.Consumer;

/**
 * The calls of the contract as the runner makes them: each returns at the end of its call, and a thread that is interrupted
 * abandons the call. A null timeout is the client's.
 */
interface Calls {
    CreateAssistantResponse createAssistant(CreateAssistantRequest request, Duration timeout)
            throws InterruptedException;

    Assistant getAssistant(GetAssistantRequest request, Duration timeout) throws InterruptedException;

    void listMessages(ListMessagesRequest request, Duration timeout, Consumer<Message> messages)
            throws InterruptedException;

    void deleteAssistant(DeleteAssistantRequest request, Duration timeout) throws InterruptedException;

    void cancelTurn(CancelTurnRequest request, Duration timeout) throws InterruptedException;

    TurnCompleted postUserQueryUnary(PostUserQueryRequest request, Duration timeout) throws InterruptedException;

    void postUserQuery(
            PostUserQueryRequest request,
            Duration timeout,
            Consumer<String> requestId,
            Consumer<PostUserQueryResponse> events)
            throws InterruptedException;

    void postUserQueryText(
            PostUserQueryRequest request, Duration timeout, Consumer<String> requestId, Consumer<String> pieces);
}
