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
 * The subscription to a reply: posts the turn, again if necessary, and delivers events on demand.
 *
 * <p>Everything runs as a task of {@code signals}, which executes its tasks one after another on the submitting
 * threads. Only these tasks access the fields, so there are no locks, and the subscriber gets one signal at a time.
 */
final class ReplySubscription implements Flow.Subscription, Connection.Activity {
    private final SynchronizationContext signals = new SynchronizationContext(this::onUncaught);
    // Closing the context ends all calls that were made in it, including one that is just being started.
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Connection connection;
    private final PostUserQueryRequest request;
    private final Deadline deadline;
    private final RetryBudget budget;
    private final ReplayFilter filter = new ReplayFilter();

    /** The events that the subscriber has yet to request: one, or several after a restart. */
    private final Queue<PostUserQueryResponse> events = new ArrayDeque<>();

    /** Null after the last signal. From then on nothing happens, and the subscriber can be garbage-collected. */
    private Flow.Subscriber<? super PostUserQueryResponse> subscriber;

    private long demand;
    private ClientCallStreamObserver<PostUserQueryRequest> call;
    private boolean isMessageRequested;
    private Future<?> retry = CompletableFuture.completedFuture(null);

    /** Whether the turn is known to be stored. Everything after that is ignored. */
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
        this.budget = connection.retryBudget(deadline);
        this.subscriber = subscriber;
    }

    /** Posts the turn. The subscriber gets its subscription before this returns. */
    void start() {
        execute(() -> {
            context.addListener(
                    cancelled -> execute(() -> finish(PalaverException.cancelled(cancelled))), Runnable::run);
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
                end(new IllegalArgumentException("a subscriber must request at least one event (rule 3.9)"));
                return;
            }
            demand = demand + count < 0 ? Long.MAX_VALUE : demand + count;
            deliver();
            pull();
        });
    }

    /** Ends the call at the server immediately, even while the subscriber is busy. */
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
        } catch (RuntimeException e) { // thrown by an interceptor of the program
            end(PalaverException.of(e));
            return;
        }
        pull();
    }

    /** Requests another message if there is no other event to deliver. */
    private void pull() {
        boolean isWanted = isCompleted || (demand > 0 && events.isEmpty());
        if (call != null && isWanted && !isMessageRequested) {
            isMessageRequested = true;
            call.request(1);
        }
    }

    private void receive(PostUserQueryResponse event) {
        isMessageRequested = false;
        budget.reset();
        if (!isCompleted) {
            isCompleted = event.hasCompleted();
            events.addAll(filter.accept(event));
        }
        deliver();
        pull();
    }

    private void onCallEnd(PalaverException error) {
        call = null;
        if (isCompleted || isOver) {
            end(null);
        } else if (!filter.mayRepeat()) {
            end(error);
        } else {
            budget.delayAfter(error).ifPresentOrElse(this::postAfter, () -> end(error));
        }
    }

    private void postAfter(Duration delay) {
        filter.beginReplay();
        retry = Connection.schedule(delay, () -> execute(this::post));
    }

    /** Ends the reply with an error of this side, without delivering the events that are queued. */
    private void finish(PalaverException error) {
        if (isCompleted) {
            end(null);
        } else {
            events.clear();
            end(error);
        }
    }

    /** Ends the reply after the events that are queued. */
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
        retry.cancel(false);
        context.close();
        connection.end(this);
    }

    /** Handles an exception of the subscriber, which must not throw any: cancels, and passes it to the thread's handler. */
    private void onUncaught(Thread thread, Throwable thrown) {
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
            execute(() -> onCallEnd(PalaverException.of(error)));
        }

        @Override
        public void onCompleted() {
            execute(() -> onCallEnd(PalaverException.malformedResponse("the stream ended without `completed`", null)));
        }
    }
}
