package chat.palaver.conformance;

import chat.palaver.PalaverClient;
import chat.palaver.Reply;
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

/** Makes the calls with {@link PalaverClient}. */
record BlockingCalls(PalaverClient client) implements Calls {
    @Override
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request, Duration timeout) {
        return client.createAssistant(request, timeout);
    }

    @Override
    public Assistant getAssistant(GetAssistantRequest request, Duration timeout) {
        return client.getAssistant(request, timeout);
    }

    @Override
    public void listMessages(ListMessagesRequest request, Duration timeout, Consumer<Message> messages) {
        client.listMessages(request, timeout).forEach(messages);
    }

    @Override
    public void deleteAssistant(DeleteAssistantRequest request, Duration timeout) {
        client.deleteAssistant(request, timeout);
    }

    @Override
    public void cancelTurn(CancelTurnRequest request, Duration timeout) {
        client.cancelTurn(request, timeout);
    }

    @Override
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request, Duration timeout) {
        return client.postUserQueryUnary(request, timeout);
    }

    @Override
    public void postUserQuery(
            PostUserQueryRequest request,
            Duration timeout,
            Consumer<String> requestId,
            Consumer<PostUserQueryResponse> events) {
        try (Reply reply = client.postUserQuery(request, timeout)) {
            requestId.accept(reply.requestId());
            reply.forEach(events);
        }
    }

    @Override
    public void postUserQueryText(
            PostUserQueryRequest request, Duration timeout, Consumer<String> requestId, Consumer<String> pieces) {
        try (Reply reply = client.postUserQuery(request, timeout)) {
            requestId.accept(reply.requestId());
            reply.text().forEach(pieces);
        }
    }
}
