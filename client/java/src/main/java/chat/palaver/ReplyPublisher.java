package chat.palaver;

import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Flow;

/**
 * A reply for reactive streams. Each subscription posts the turn, and gets its reply from the first event, as fast as it
 * asks for events and no faster. As all of them have the same {@code request_id}, a second subscription joins the turn
 * while it runs, and replays it once it is stored; the model is not asked again.
 *
 * <p>To cancel the subscription is to leave the turn: {@code on_disconnect} of the request says what becomes of it. A
 * subscription that ends with an error ends with a {@link PalaverException}. Subscribers are called on gRPC's threads, or
 * on the one that asks for events, and must not block, as reactive streams have it.
 *
 * <p>When the connection breaks, the turn is posted again, and the subscriber gets each event once. Only where the turn
 * had to run anew, and the model now writes something else, another {@code started} says that the reply begins again:
 * <strong>what came before it is void.</strong>
 */
public final class ReplyPublisher implements Flow.Publisher<PostUserQueryResponse> {
    private final Connection connection;
    private final PostUserQueryRequest request;
    private final Duration timeout;

    ReplyPublisher(Connection connection, PostUserQueryRequest request, Duration timeout) {
        this.connection = connection;
        this.request = request;
        this.timeout = timeout;
    }

    /**
     * Returns the identifier of the turn, for {@code CancelTurn} and to post it again: the caller's, or the one that was
     * made for it.
     *
     * @return the {@code request_id}
     */
    public String requestId() {
        return request.getRequestId();
    }

    /**
     * Posts the turn for a subscriber. The timeout counts from here.
     *
     * @throws NullPointerException there is no subscriber
     */
    @Override
    public void subscribe(Flow.Subscriber<? super PostUserQueryResponse> subscriber) {
        Objects.requireNonNull(subscriber, "subscriber");
        new ReplySubscription(connection, request, timeout, subscriber).start();
    }
}
