package chat.palaver;

import chat.palaver.v1.AssistantServiceGrpc.AssistantServiceStub;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.function.Function;

/** A call with one response, as a future. To cancel the future is to leave the call. */
final class UnaryCall<Q, R, T> implements Connection.Activity {
    /** A method of the generated stub. */
    interface Method<Q, R> {
        void call(AssistantServiceStub stub, Q request, StreamObserver<R> observer);
    }

    private final CompletableFuture<T> result = new CompletableFuture<>();
    // Whatever is called within it ends with it, also a call that is only just about to begin.
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Connection connection;
    private final Method<Q, R> method;
    private final Q request;
    private final Function<R, T> content;
    private final Deadline deadline;
    private final Attempts attempts;

    private UnaryCall(
            Connection connection,
            Method<Q, R> method,
            Q request,
            Function<R, T> content,
            Deadline deadline,
            Attempts attempts) {
        this.connection = connection;
        this.method = method;
        this.request = request;
        this.content = content;
        this.deadline = deadline;
        this.attempts = attempts;
    }

    /** Makes a call once. Its result is what {@code content} takes out of the response. */
    static <Q, R, T> CompletableFuture<T> once(
            Connection connection, Method<Q, R> method, Q request, Function<R, T> content, Duration timeout) {
        Deadline deadline = connection.deadline(timeout);
        Attempts attempts = new Attempts(deadline, Duration.ZERO, Deadline.getSystemTicker());
        return new UnaryCall<>(connection, method, request, content, deadline, attempts).start();
    }

    /** Makes a call again and again while the connection breaks. The request must be safe to repeat. */
    static <Q, R, T> CompletableFuture<T> untilAnswered(
            Connection connection, Method<Q, R> method, Q request, Function<R, T> content, Duration timeout) {
        Deadline deadline = connection.deadline(timeout);
        Attempts attempts = connection.attempts(deadline);
        return new UnaryCall<>(connection, method, request, content, deadline, attempts).start();
    }

    private CompletableFuture<T> start() {
        connection.checkOpen();
        var unused = result.whenComplete((response, error) -> {
            context.close();
            connection.end(this);
        });
        context.addListener(left -> abort(PalaverException.left(left)), Runnable::run);
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
        } catch (RuntimeException e) { // of an interceptor that the program has added
            abort(PalaverException.of(e));
        }
    }

    private void failed(PalaverException error) {
        attempts.pauseAfter(error).ifPresentOrElse(this::postAfter, () -> abort(error));
    }

    private void postAfter(Duration pause) {
        Future<?> next = Connection.after(pause, this::post);
        var unused = result.whenComplete((response, error) -> next.cancel(false));
    }

    private final class Observer implements StreamObserver<R> {
        private R response;

        @Override
        public void onNext(R response) {
            this.response = response;
        }

        @Override
        public void onError(Throwable error) {
            failed(PalaverException.of(error));
        }

        @Override
        public void onCompleted() {
            if (response == null) {
                abort(PalaverException.malformed("there is no response", null));
            } else {
                result.complete(content.apply(response));
            }
        }
    }
}
