package chat.palaver.conformance;

import chat.palaver.PalaverAsyncClient;
import chat.palaver.PalaverClient;
import chat.palaver.PalaverException;
import chat.palaver.ReplyPublisher;
import chat.palaver.v1.Assistant;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CreateAssistantRequest;
import chat.palaver.v1.CreateAssistantResponse;
import chat.palaver.v1.DeleteAssistantRequest;
import chat.palaver.v1.GetAssistantRequest;
import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.ListMessagesResponse;
import chat.palaver.v1.Message;
import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.TurnCompleted;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Flow;
import java.util.function.Consumer;

/** Makes the calls with {@link PalaverAsyncClient}, and waits for its futures and publishers. */
final class AsyncCalls implements Calls {
    private final PalaverAsyncClient client;

    /** For what only the blocking client offers. */
    private final BlockingCalls blocking;

    AsyncCalls(PalaverClient client) {
        this.client = client.async();
        this.blocking = new BlockingCalls(client);
    }

    @Override
    public CreateAssistantResponse createAssistant(CreateAssistantRequest request, Duration timeout)
            throws InterruptedException {
        return await(client.createAssistant(request, timeout));
    }

    @Override
    public Assistant getAssistant(GetAssistantRequest request, Duration timeout) throws InterruptedException {
        return await(client.getAssistant(request, timeout));
    }

    @Override
    public void listMessages(ListMessagesRequest request, Duration timeout, Consumer<Message> messages)
            throws InterruptedException {
        ListMessagesRequest.Builder page = request.toBuilder();
        do {
            ListMessagesResponse response = await(client.listMessages(page.build(), timeout));
            response.getMessagesList().forEach(messages);
            page.setPageToken(response.getNextPageToken());
        } while (!page.getPageToken().isEmpty());
    }

    @Override
    public void deleteAssistant(DeleteAssistantRequest request, Duration timeout) throws InterruptedException {
        await(client.deleteAssistant(request, timeout));
    }

    @Override
    public void cancelTurn(CancelTurnRequest request, Duration timeout) throws InterruptedException {
        await(client.cancelTurn(request, timeout));
    }

    @Override
    public TurnCompleted postUserQueryUnary(PostUserQueryRequest request, Duration timeout)
            throws InterruptedException {
        return await(client.postUserQueryUnary(request, timeout));
    }

    @Override
    public void postUserQuery(
            PostUserQueryRequest request,
            Duration timeout,
            Consumer<String> requestId,
            Consumer<PostUserQueryResponse> events)
            throws InterruptedException {
        ReplyPublisher reply = client.postUserQuery(request, timeout);
        requestId.accept(reply.requestId());
        Reader reader = new Reader(events);
        reply.subscribe(reader);
        try {
            await(reader.end);
        } catch (InterruptedException e) {
            reader.subscription.cancel();
            throw e;
        }
    }

    @Override
    public void postUserQueryText(
            PostUserQueryRequest request, Duration timeout, Consumer<String> requestId, Consumer<String> pieces) {
        blocking.postUserQueryText(request, timeout, requestId, pieces);
    }

    private static <T> T await(CompletableFuture<T> future) throws InterruptedException {
        try {
            return future.get();
        } catch (ExecutionException e) {
            throw (PalaverException) e.getCause();
        } catch (InterruptedException e) {
            future.cancel(true);
            throw e;
        }
    }

    /** Requests one event after another. */
    private static final class Reader implements Flow.Subscriber<PostUserQueryResponse> {
        private final Consumer<PostUserQueryResponse> events;
        private final CompletableFuture<Void> end = new CompletableFuture<>();
        private Flow.Subscription subscription;

        Reader(Consumer<PostUserQueryResponse> events) {
            this.events = events;
        }

        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            this.subscription = subscription;
            subscription.request(1);
        }

        @Override
        public void onNext(PostUserQueryResponse event) {
            events.accept(event);
            subscription.request(1);
        }

        @Override
        public void onError(Throwable error) {
            end.completeExceptionally(error);
        }

        @Override
        public void onComplete() {
            end.complete(null);
        }
    }
}
