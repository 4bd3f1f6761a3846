package chat.palaver;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.Serial;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * A call failed. If it was a turn, it is not stored, unless the status is {@code INTERNAL} and {@link #reason()} is empty:
 * then the server broke the contract, and it is unknown whether the turn is stored.
 *
 * <p>The status is the kind of failure:
 *
 * <table>
 * <caption>Statuses</caption>
 * <tr><th>status</th><th>meaning</th></tr>
 * <tr><td>{@code INVALID_ARGUMENT}</td><td>the request is invalid; {@link #fieldViolations()} lists the fields</td></tr>
 * <tr><td>{@code NOT_FOUND}</td><td>the assistant does not exist, or the turn is not running</td></tr>
 * <tr><td>{@code ALREADY_EXISTS}</td><td>the assistant already exists</td></tr>
 * <tr><td>{@code ABORTED}</td><td>the call conflicted with another turn of the assistant; try again</td></tr>
 * <tr><td>{@code FAILED_PRECONDITION}</td><td>the call can't succeed until something else changes</td></tr>
 * <tr><td>{@code RESOURCE_EXHAUSTED}</td><td>a limit of the server, the store or the model's endpoint was reached</td></tr>
 * <tr><td>{@code UNAVAILABLE}</td><td>the server, the store or the model's endpoint can't be reached</td></tr>
 * <tr><td>{@code DEADLINE_EXCEEDED}</td><td>the timeout of the call expired, or the model was too slow</td></tr>
 * <tr><td>{@code CANCELLED}</td><td>the call was cancelled, or {@code CancelTurn} ended the turn</td></tr>
 * <tr><td>{@code DATA_LOSS}</td><td>the stored data is corrupt</td></tr>
 * <tr><td>{@code INTERNAL}</td><td>the server failed, or its response is malformed</td></tr>
 * <tr><td>{@code UNIMPLEMENTED}</td><td>the server does not support the request</td></tr>
 * <tr><td>{@code UNAUTHENTICATED}, {@code PERMISSION_DENIED}</td><td>the token is missing or invalid, or does not
 * permit the call</td></tr>
 * </table>
 *
 * <p>{@link #getCause()} is the exception of gRPC, if there was one. If the supplier of the token failed, the cause of that one is
 * the supplier's exception.
 *
 * @serial exclude
 */
@SuppressWarnings({"serial", "InvalidBlockTag"}) // not serializable, and Error Prone misreads the @serial tag
public final class PalaverException extends RuntimeException {
    @Serial
    private static final long serialVersionUID = 1;

    private static final String DOMAIN = "palaver.v1";

    /**
     * One invalid field of a request.
     *
     * @param field its path in the request, for instance "history.max_messages"
     * @param description what is wrong with it, and what is allowed
     */
    public record FieldViolation(String field, String description) {}

    private final Status.Code status;
    private final String description;
    private final String reason;
    private final List<FieldViolation> fieldViolations;
    private final Duration retryDelay;

    private PalaverException(Status.Code status, String description, Details details, Throwable cause) {
        super(description + " (" + status + (details.reason.isEmpty() ? "" : ", " + details.reason) + ")", cause);
        this.status = status;
        this.description = description;
        this.reason = details.reason;
        this.fieldViolations = details.fieldViolations;
        this.retryDelay = details.retryDelay;
    }

    /**
     * Returns the gRPC status.
     *
     * @return the code, never {@code OK}
     */
    public Status.Code status() {
        return status;
    }

    /**
     * Returns a description of the failure for people. Its wording may change.
     *
     * @return the description; {@link #getMessage()} also contains the status and the reason
     */
    public String description() {
        return description;
    }

    /**
     * Returns the exact reason: the name of a value of the contract's {@link chat.palaver.v1.ErrorReason} without its
     * prefix, for instance "ASSISTANT_NOT_FOUND". Newer servers may send reasons that you don't know: fall back to the status then.
     *
     * @return the reason, or an empty string if the error does not come from a Palaver server
     */
    public String reason() {
        return reason;
    }

    /**
     * Returns all invalid fields of the request.
     *
     * @return the fields; empty unless the reason is "INVALID_FIELD"
     */
    public List<FieldViolation> fieldViolations() {
        return fieldViolations;
    }

    /**
     * Returns how long to wait before repeating the request.
     *
     * @return the delay, or nothing if the server did not suggest one
     */
    public Optional<Duration> retryDelay() {
        return Optional.ofNullable(retryDelay);
    }

    /** Converts an exception of gRPC, including its details. */
    static PalaverException of(Throwable thrown) {
        Status status = Status.fromThrowable(thrown);
        // gRPC cancels a call if it can't parse one of its messages.
        if (status.getCode() == Status.Code.CANCELLED
                && status.getCause() instanceof StatusRuntimeException parseError
                && parseError.getStatus().getCode() == Status.Code.INTERNAL) {
            return malformedResponse(parseError.getMessage(), thrown);
        }
        return new PalaverException(status.getCode(), description(status), Details.of(thrown), thrown);
    }

    /** Returns the exception for a response that breaks the contract. */
    static PalaverException malformedResponse(String problem, Throwable cause) {
        return withoutDetails(Status.Code.INTERNAL, "the server's response can't be understood: " + problem, cause);
    }

    /** Returns the exception for a call that the program itself has cancelled. */
    static PalaverException cancelled(String how, Throwable cause) {
        return withoutDetails(Status.Code.CANCELLED, how, cause);
    }

    /** Returns the exception for a call whose context has ended. */
    static PalaverException cancelled(Context context) {
        Status status = Contexts.statusFromCancelled(context);
        return withoutDetails(status.getCode(), description(status), status.getCause());
    }

    /** Returns the exception for reading only the text of a reply that restarts: delivered text can't be taken back. */
    static PalaverException replyRestarted() {
        String message = "the connection broke, and the turn ran again with a different reply";
        return withoutDetails(Status.Code.UNAVAILABLE, message, null);
    }

    /** Returns this exception with the stack trace of the current thread, which leads to the code of the caller. */
    PalaverException withCurrentTrace() {
        fillInStackTrace();
        return this;
    }

    private static PalaverException withoutDetails(Status.Code status, String message, Throwable cause) {
        return new PalaverException(status, message, Details.NONE, cause);
    }

    private static String description(Status status) {
        String description = status.getDescription();
        Throwable cause = status.getCause();
        if (description == null && cause == null) {
            return "the call failed without a message";
        }
        // If there is no connection, only the cause explains why.
        return description == null ? cause.toString() : cause == null ? description : description + ": " + cause;
    }

    private record Details(String reason, List<FieldViolation> fieldViolations, Duration retryDelay) {
        static final Details NONE = new Details("", List.of(), null);

        static Details of(Throwable thrown) {
            String reason = "";
            List<FieldViolation> violations = List.of();
            Duration retryDelay = null;
            try {
                com.google.rpc.Status rich = StatusProto.fromThrowable(thrown);
                for (Any detail : rich == null ? List.<Any>of() : rich.getDetailsList()) {
                    if (detail.is(ErrorInfo.class)) {
                        ErrorInfo info = detail.unpack(ErrorInfo.class);
                        reason = info.getDomain().equals(DOMAIN) ? info.getReason() : reason;
                    } else if (detail.is(BadRequest.class)) {
                        violations = detail.unpack(BadRequest.class).getFieldViolationsList().stream()
                                .map(violation -> new FieldViolation(violation.getField(), violation.getDescription()))
                                .toList();
                    } else if (detail.is(RetryInfo.class)) {
                        var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                        retryDelay = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
                    }
                }
            } catch (InvalidProtocolBufferException | IllegalArgumentException | ArithmeticException changed) {
                return NONE; // a proxy has tampered with the status, so none of its details can be trusted
            }
            return new Details(reason, violations, retryDelay);
        }
    }
}
