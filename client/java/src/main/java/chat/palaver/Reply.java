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
 * A reply as it arrives, for blocking code. Iterating over it yields its events; {@link #text()} yields only the text. Use it
 * in a {@code try} statement, which cancels the call when it is left early.
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
 * <p>To cancel the call, {@link #close()} the reply from any thread or interrupt the thread that reads it. The call ends
 * immediately, and {@code on_disconnect} of the request decides what happens to the turn. The reading thread gets a {@link
 * PalaverException} with the status {@code CANCELLED}; if it was interrupted, its interrupt flag stays set.
 *
 * <p>When the connection breaks or the server shuts down, the turn is posted again with the same {@code request_id}, and the
 * iteration resumes where it stopped. If the turn had to run again and the model wrote something else, the reply restarts:
 * <strong>a second {@code started} voids all events before it.</strong> With {@code ON_DISCONNECT_CONTINUE}, this happens
 * only if the server dies. After three posts in a row that the server answered but that brought nothing new, the iteration
 * throws the error, because each post may be another model call.
 *
 * <p>The call starts immediately, but at most one event is read ahead. Only one thread at a time may iterate. All iterators
 * read the same stream, so each continues where the others stopped.
 */
public final class Reply implements Iterable<PostUserQueryResponse>, AutoCloseable {
    /** A signal of the subscription: an event, an error, or neither at the end. */
    private record Signal(PostUserQueryResponse event, PalaverException error) {}

    private final BlockingQueue<Signal> signals = new LinkedBlockingQueue<>();
    private final String requestId;
    private final ReplySubscription subscription;
    private volatile boolean isClosed;
    private volatile TurnCompleted completed;

    // Accessed only by the thread that iterates.
    private PostUserQueryResponse next;
    private Signal last;
    private int starts;

    Reply(Connection connection, PostUserQueryRequest request, Duration timeout) {
        requestId = request.getRequestId();
        subscription = new ReplySubscription(connection, request, timeout, new SignalQueue());
        subscription.start();
    }

    /**
     * Returns the identifier of the turn, to cancel it or to post it again: the one of the request, or the generated one.
     *
     * @return the {@code request_id}
     */
    public String requestId() {
        return requestId;
    }

    /**
     * Returns the last event, which confirms that the turn is stored.
     *
     * @return the event, or nothing if it has not been read yet or the turn failed
     */
    public Optional<TurnCompleted> completed() {
        return Optional.ofNullable(completed);
    }

    /**
     * Returns an iterator over the events, of which {@code completed} is the last. Both of its methods wait for an event and
     * throw a {@link PalaverException} if the turn fails.
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
     * Returns the pieces of the reply's text as they arrive, without the other events.
     *
     * <p>Delivered text can't be taken back: if the reply restarts, the iteration cancels the call and throws a {@link
     * PalaverException} with the status {@code UNAVAILABLE} and an empty reason.
     *
     * @return the pieces
     */
    public Iterable<String> text() {
        return () -> new Iterator<>() {
            private String piece;

            @Override
            public boolean hasNext() {
                while (piece == null && hasNextEvent()) {
                    PostUserQueryResponse event = nextEvent();
                    if (event.hasStarted() && starts > 1) {
                        close();
                        throw PalaverException.replyRestarted();
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

    /** Cancels the call. After the end of the reply it does nothing. */
    @Override
    public void close() {
        isClosed = true;
        subscription.cancel();
        signals.add(new Signal(null, null)); // wakes the reading thread, which checks `isClosed`
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
            throw last.error.withCurrentTrace();
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
            starts++;
        } else if (event.hasCompleted()) {
            completed = event.getCompleted();
        }
        return event;
    }

    /** Waits for the next signal, and requests another event after an event. Returns an error if the reply is closed. */
    private Signal takeSignal() {
        try {
            Signal signal = isClosed ? null : signals.take();
            if (!isClosed) {
                if (signal.event != null) {
                    subscription.request(1);
                }
                return signal;
            }
            return cancelled("the reply was closed", null);
        } catch (InterruptedException e) {
            close();
            Thread.currentThread().interrupt();
            return cancelled("the thread was interrupted while it waited for the reply", e);
        }
    }

    private Signal cancelled(String how, Throwable cause) {
        return new Signal(null, completed == null ? PalaverException.cancelled(how, cause) : null);
    }

    private final class SignalQueue implements Flow.Subscriber<PostUserQueryResponse> {
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
