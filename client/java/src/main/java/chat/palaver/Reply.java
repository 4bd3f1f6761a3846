package chat.palaver;

import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import chat.palaver.v1.TurnCompleted;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * A reply as it arrives, for blocking code: an iteration over its events, or over the pieces of its text alone by {@link
 * #text()}. Use it in a {@code try} statement, whose end leaves the turn.
 *
 * <pre>{@code
 * try (Reply reply = client.postUserQuery(request)) {
 *     for (PostUserQueryResponse event : reply) {
 *         switch (event.getEventCase()) {
 *             case TEXT_DELTA -> System.out.print(event.getTextDelta().getText());
 *             case COMPLETED -> System.out.println(event.getCompleted().getUsage().getTotalTokens() + " tokens");
 *             default -> {}
 *         }
 *     }
 * }
 * }</pre>
 *
 * <p>To leave the turn is to {@link #close()} the reply, from any thread, or to interrupt the thread that reads it: the
 * call ends at once, and {@code on_disconnect} of the request says what becomes of the turn. The reading thread gets a
 * {@link PalaverException} with the status {@code CANCELLED}; the interrupt flag of one that was interrupted is set.
 *
 * <p>When the connection breaks, the turn is posted again with the same {@code request_id}, and the iteration goes on
 * where it was. Only where the turn had to run anew, and the model now writes something else, another {@code started} says
 * that the reply begins again: <strong>what came before it is void.</strong> With {@code ON_DISCONNECT_CONTINUE} that takes
 * the death of a server.
 *
 * <p>The call begins at once, but no more than one event is read ahead. One thread at a time may iterate; all iterations
 * read the one stream, and each goes on where the others are.
 */
public final class Reply implements Iterable<PostUserQueryResponse>, AutoCloseable {
    /** What has arrived: an event, an error, or neither at the end. */
    private record Signal(PostUserQueryResponse event, PalaverException error) {}

    private final BlockingQueue<Signal> signals = new LinkedBlockingQueue<>();
    private final String requestId;
    private final ReplySubscription subscription;
    private volatile boolean isClosed;
    private volatile TurnCompleted completed;

    // Of the thread that iterates.
    private PostUserQueryResponse next;
    private Signal last;
    private int beginnings;

    Reply(Connection connection, PostUserQueryRequest request, Duration timeout) {
        requestId = request.getRequestId();
        subscription = new ReplySubscription(connection, request, timeout, new Inbox());
        subscription.start();
    }

    /**
     * Returns the identifier of the turn, for {@code CancelTurn} and to post it again: the caller's, or the one that was
     * made for it.
     *
     * @return the {@code request_id}
     */
    public String requestId() {
        return requestId;
    }

    /**
     * Returns the end of the turn, which says that it is stored.
     *
     * @return the last event, once it was read; before, and after an error, nothing
     */
    public Optional<TurnCompleted> completed() {
        return Optional.ofNullable(completed);
    }

    /**
     * Iterates over the events; the last one is {@code completed}. {@code hasNext} waits for an event.
     *
     * <p>It throws a {@link PalaverException} when the turn fails.
     */
    @Override
    public Iterator<PostUserQueryResponse> iterator() {
        return new Iterator<>() {
            @Override
            public boolean hasNext() {
                return hasNextEvent();
            }

            @Override
            public PostUserQueryResponse next() {
                return nextEvent();
            }
        };
    }

    /**
     * Iterates over the pieces of the reply's text, as they arrive. Other events are passed over.
     *
     * <p>A piece can't be taken back. Where the reply begins anew, the iteration leaves the turn and throws a {@link
     * PalaverException} with the status {@code UNAVAILABLE} and an empty reason.
     *
     * @return the pieces, none of them empty
     */
    public Iterable<String> text() {
        return () -> new Iterator<>() {
            private String piece;

            @Override
            public boolean hasNext() {
                while (piece == null && hasNextEvent()) {
                    PostUserQueryResponse event = nextEvent();
                    if (event.hasStarted() && beginnings > 1) {
                        close();
                        throw PalaverException.begunAnew();
                    }
                    piece = event.hasTextDelta() ? event.getTextDelta().getText() : null;
                }
                return piece != null;
            }

            @Override
            public String next() {
                if (!hasNext()) {
                    throw new NoSuchElementException();
                }
                String result = piece;
                piece = null;
                return result;
            }
        };
    }

    /** Leaves the turn. After the end of the reply it does nothing. */
    @Override
    public void close() {
        isClosed = true;
        subscription.cancel();
        signals.add(new Signal(null, null)); // for whoever waits; what it means is read from `isClosed`
    }

    private boolean hasNextEvent() {
        if (next != null) {
            return true;
        }
        if (last == null) {
            Signal signal = takeSignal();
            if (signal.event != null) {
                next = signal.event;
                return true;
            }
            last = signal;
        }
        if (last.error != null) {
            throw last.error.here();
        }
        return false;
    }

    private PostUserQueryResponse nextEvent() {
        if (!hasNextEvent()) {
            throw new NoSuchElementException();
        }
        PostUserQueryResponse event = next;
        next = null;
        if (event.hasStarted()) {
            beginnings++;
        } else if (event.hasCompleted()) {
            completed = event.getCompleted();
        }
        return event;
    }

    private Signal takeSignal() {
        try {
            Signal signal = isClosed ? null : signals.take();
            if (!isClosed) {
                if (signal.event != null) {
                    subscription.request(1);
                }
                return signal;
            }
            return left("the reply was closed", null);
        } catch (InterruptedException e) {
            close();
            Thread.currentThread().interrupt();
            return left("the thread was interrupted while it waited for the reply", e);
        }
    }

    private Signal left(String how, Throwable cause) {
        return new Signal(null, completed == null ? PalaverException.left(how, cause) : null);
    }

    private final class Inbox implements Flow.Subscriber<PostUserQueryResponse> {
        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            subscription.request(1);
        }

        @Override
        public void onNext(PostUserQueryResponse event) {
            signals.add(new Signal(event, null));
        }

        @Override
        public void onError(Throwable error) {
            signals.add(new Signal(null, (PalaverException) error));
        }

        @Override
        public void onComplete() {
            signals.add(new Signal(null, null));
        }
    }
}
