package chat.palaver;

import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.function.Function;

/** A unary call as a future. Cancelling the future cancels the call. */
final class UnaryCall<Q, R, T> implements Connection.Activity {
    /** A method of the generated stub. */
    interface Method<Q, R> {
        void call(AssistantServiceStub stub, Q request, StreamObserver<R> observer);
    }

    private final CompletableFuture<T> result = new CompletableFuture<>();
    // Closing the context ends all calls that were made in it, including one that is just being started.
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Connection connection;
    private final Method<Q, R> method;
    private final Q request;
    private final Function<R, T> read;
    private final Deadline deadline;
    private final RetryBudget budget;

    private UnaryCall(
            Connection connection,
            Method<Q, R> method,
            Q request,
            Function<R, T> read,
            Deadline deadline,
            RetryBudget budget) {
        this.connection = connection;
        this.method = method;
        this.request = request;
        this.read = read;
        this.deadline = deadline;
        this.budget = budget;
    }

    /**
     * Makes a call once.
     *
     * @param read returns the result of a response, or throws a {@link PalaverException}
     */
    static <Q, R, T> CompletableFuture<T> once(
            Connection connection, Method<Q, R> method, Q request, Function<R, T> read, Duration timeout) {
        Deadline deadline = connection.deadline(timeout);
        RetryBudget budget = new RetryBudget(deadline, Duration.ZERO, Deadline.getSystemTicker());
        return new UnaryCall<>(connection, method, request, read, deadline, budget).start();
    }

    /**
     * Makes a call, and repeats it when the connection breaks. The request must be idempotent.
     *
     * @param read returns the result of a response, or throws a {@link PalaverException}
     */
    static <Q, R, T> CompletableFuture<T> untilAnswered(
            Connection connection, Method<Q, R> method, Q request, Function<R, T> read, Duration timeout) {
        Deadline deadline = connection.deadline(timeout);
        RetryBudget budget = connection.retryBudget(deadline);
        return new UnaryCall<>(connection, method, request, read, deadline, budget).start();
    }

    private CompletableFuture<T> start() {
        connection.checkOpen();
        var unused = result.whenComplete((response, error) -> {
            context.close();
            connection.end(this);
        });
        context.addListener(cancelled -> abort(PalaverException.cancelled(cancelled)), Runnable::run);
        connection.begin(this);
        post();
        return result;
    }

    @Override
    public void abort(PalaverException error) {
        result.completeExceptionally(error);
    }

    private void post() {
        if (result.isDone()) {
            return;
        }
        try {
            context.run(() -> method.call(connection.stub(deadline), request, new Observer()));
        } catch (RuntimeException e) { // thrown by an interceptor of the program
            abort(PalaverException.of(e));
        }
    }

    private void retryAfter(PalaverException error) {
        budget.delayAfter(error).ifPresentOrElse(this::postAfter, () -> abort(error));
    }

    private void postAfter(Duration delay) {
        Future<?> next = Connection.schedule(delay, this::post);
        var unused = result.whenComplete((response, error) -> next.cancel(false));
    }

    private void complete(R response) {
        try {
            result.complete(read.apply(response));
        } catch (PalaverException e) {
            abort(e);
        }
    }

    private final class Observer implements StreamObserver<R> {
        private R response;

        @Override
        public void onNext(R response) {
            this.response = response;
        }

        @Override
        public void onError(Throwable error) {
            retryAfter(PalaverException.of(error));
        }

        @Override
        public void onCompleted() {
            if (response == null) {
                abort(PalaverException.malformedResponse("there is no message", null));
            } else {
                complete(response);
            }
        }
    }
}
