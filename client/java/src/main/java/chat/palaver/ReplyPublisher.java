package chat.palaver;

import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Flow;

/**
 * A reply as a reactive stream. Each subscription posts the turn and gets its reply from the first event, with
 * backpressure: events arrive as the subscriber requests them. All subscriptions share one {@code request_id}, so a second
 * one joins the running turn or replays the stored one. The model is not called again.
 *
 * <p>Cancelling the subscription ends its call; {@code on_disconnect} of the request decides what happens to the turn. The
 * error of a subscription is always a {@link PalaverException}. Subscribers are called on gRPC's threads or on the thread that
 * requests events, and must not block.
 *
 * <p>When the connection breaks or the server shuts down, the turn is posted again, and each event is delivered once. If the
 * turn had to run again and the model wrote something else, the reply restarts: <strong>a second {@code started} voids all
 * events before it.</strong> After three posts in a row that the server answered but that brought nothing new, the
 * subscriber gets the error, because each post may be another model call.
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
     * Returns the identifier of the turn, to cancel it or to post it again: the one of the request, or the generated one.
     *
     * @return the {@code request_id}
     */
    public String requestId() {
        return request.getRequestId();
    }

    /**
     * Posts the turn for a subscriber. The timeout starts now.
     *
     * @throws NullPointerException if {@code subscriber} is null
     */
    @Override
    public void subscribe(Flow.Subscriber<? super PostUserQueryResponse> subscriber) {
        Objects.requireNonNull(subscriber, "subscriber");
        new ReplySubscription(connection, request, timeout, subscriber).start();
    }
}
