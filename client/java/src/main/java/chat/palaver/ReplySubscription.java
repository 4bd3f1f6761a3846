package chat.palaver;

import chat.palaver.v1.PostUserQueryRequest;
import chat.palaver.v1.PostUserQueryResponse;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.SynchronizationContext;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Flow;
import java.util.concurrent.Future;

/**
 * The reply that one subscriber gets: posts the turn, as often as it takes, and hands out events as they are asked for.
 *
 * <p>All that happens is a task of {@code signals}, which run one after another on whichever thread is there. They alone
 * touch the fields, so there are no locks, and the subscriber gets its signals one by one.
 */
final class ReplySubscription implements Flow.Subscription, Connection.Activity {
    private final SynchronizationContext signals = new SynchronizationContext(this::hasThrown);
    // Whatever is called within it ends with it, also a call that is only just about to begin.
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Connection connection;
    private final PostUserQueryRequest request;
    private final Deadline deadline;
    private final Attempts attempts;
    private final Progress progress = new Progress();

    /** What the subscriber has not asked for yet: one event, or several where the reply has begun anew. */
    private final Queue<PostUserQueryResponse> events = new ArrayDeque<>();

    /** Null once it has had its last signal: nothing happens any more then, and nothing holds on to it. */
    private Flow.Subscriber<? super PostUserQueryResponse> subscriber;

    private long demand;
    private ClientCallStreamObserver<PostUserQueryRequest> call;
    private boolean isMessageRequested;
    private Future<?> pause = CompletableFuture.completedFuture(null);

    /** Whether the turn is known to be stored. Whatever comes then does not matter. */
    private boolean isCompleted;

    private boolean isOver;
    private Throwable error;
    private volatile boolean isCancelled;

    ReplySubscription(
            Connection connection,
            PostUserQueryRequest request,
            Duration timeout,
            Flow.Subscriber<? super PostUserQueryResponse> subscriber) {
        this.connection = connection;
        this.request = request;
        this.deadline = connection.deadline(timeout);
        this.attempts = connection.attempts(deadline);
        this.subscriber = subscriber;
    }

    /** Posts the turn. The subscriber gets its subscription before this returns. */
    void start() {
        execute(() -> {
            context.addListener(left -> execute(() -> finish(PalaverException.left(left))), Runnable::run);
            connection.begin(this);
            subscriber.onSubscribe(this);
            post();
        });
    }

    @Override
    public void request(long count) {
        execute(() -> {
            if (count <= 0) {
                events.clear();
                end(new IllegalArgumentException("a subscriber must ask for 1 event at least (rule 3.9)"));
                return;
            }
            demand = demand + count < 0 ? Long.MAX_VALUE : demand + count;
            deliver();
            pull();
        });
    }

    /** Ends the call at the server at once, even while the subscriber is busy. */
    @Override
    public void cancel() {
        isCancelled = true;
        context.close();
    }

    @Override
    public void abort(PalaverException error) {
        execute(() -> finish(error));
    }

    private void execute(Runnable task) {
        signals.execute(() -> {
            if (subscriber != null) {
                task.run();
            }
        });
    }

    private void post() {
        if (isCancelled) {
            return;
        }
        isMessageRequested = false;
        try {
            context.run(() -> connection.stub(deadline).postUserQuery(request, new Observer()));
        } catch (RuntimeException e) { // of an interceptor that the program has added
            end(PalaverException.of(e));
            return;
        }
        pull();
    }

    /** Asks for another message, when there is nothing else to hand out. */
    private void pull() {
        boolean isWanted = isCompleted || (demand > 0 && events.isEmpty());
        if (call != null && isWanted && !isMessageRequested) {
            isMessageRequested = true;
            call.request(1);
        }
    }

    private void receive(PostUserQueryResponse event) {
        isMessageRequested = false;
        attempts.succeeded();
        if (!isCompleted) {
            isCompleted = event.hasCompleted();
            events.addAll(progress.accept(event));
        }
        deliver();
        pull();
    }

    private void broken(PalaverException error) {
        call = null;
        if (isCompleted || isOver) {
            end(null);
        } else {
            attempts.pauseAfter(error).ifPresentOrElse(this::postAfter, () -> end(error));
        }
    }

    private void postAfter(Duration length) {
        progress.postAgain();
        pause = Connection.after(length, () -> execute(this::post));
    }

    /** Ends the reply with an error that comes from this side, and does not wait for its turn. */
    private void finish(PalaverException error) {
        if (isCompleted) {
            end(null);
        } else {
            events.clear();
            end(error);
        }
    }

    /** Ends the reply, after the events that are there. */
    private void end(Throwable error) {
        if (!isOver) {
            isOver = true;
            this.error = error;
        }
        deliver();
    }

    private void deliver() {
        while (demand > 0 && !events.isEmpty() && !isCancelled) {
            demand--;
            subscriber.onNext(events.remove());
        }
        if (isCancelled) {
            release();
        } else if (isOver && events.isEmpty()) {
            Flow.Subscriber<?> last = subscriber;
            release();
            if (error == null) {
                last.onComplete();
            } else {
                last.onError(error);
            }
        }
    }

    private void release() {
        subscriber = null;
        events.clear();
        pause.cancel(false);
        context.close();
        connection.end(this);
    }

    /** A subscriber must not throw. It gets no more signals, and its exception goes where a thread's goes. */
    private void hasThrown(Thread thread, Throwable thrown) {
        cancel();
        thread.getUncaughtExceptionHandler().uncaughtException(thread, thrown);
    }

    private final class Observer implements ClientResponseObserver<PostUserQueryRequest, PostUserQueryResponse> {
        @Override
        public void beforeStart(ClientCallStreamObserver<PostUserQueryRequest> requests) {
            requests.disableAutoRequestWithInitial(0);
            call = requests;
        }

        @Override
        public void onNext(PostUserQueryResponse event) {
            execute(() -> receive(event));
        }

        @Override
        public void onError(Throwable error) {
            execute(() -> broken(PalaverException.of(error)));
        }

        @Override
        public void onCompleted() {
            execute(() -> broken(PalaverException.malformed("the stream ended without `completed`", null)));
        }
    }
}
