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
 * A call failed. Of a turn that ended with it, nothing is stored; only with {@code INTERNAL} and an empty {@link
 * #reason()} nobody knows, because the server broke the contract.
 *
 * <p>The status says what kind of failure it is:
 *
 * <table>
 * <caption>Statuses</caption>
 * <tr><th>status</th><th>meaning</th></tr>
 * <tr><td>{@code INVALID_ARGUMENT}</td><td>the request is wrong; {@link #fieldViolations()} says where</td></tr>
 * <tr><td>{@code NOT_FOUND}</td><td>there is no such assistant, or no such running turn</td></tr>
 * <tr><td>{@code ALREADY_EXISTS}</td><td>the assistant exists</td></tr>
 * <tr><td>{@code ABORTED}</td><td>another turn of the assistant was in the way; try again</td></tr>
 * <tr><td>{@code FAILED_PRECONDITION}</td><td>somebody must change something before this can succeed</td></tr>
 * <tr><td>{@code RESOURCE_EXHAUSTED}</td><td>a limit of the server, the store or the model's endpoint</td></tr>
 * <tr><td>{@code UNAVAILABLE}</td><td>the server, the store or the model's endpoint can't be reached</td></tr>
 * <tr><td>{@code DEADLINE_EXCEEDED}</td><td>the timeout of the call passed, or the model was too slow</td></tr>
 * <tr><td>{@code CANCELLED}</td><td>the call was left, or the turn was ended by {@code CancelTurn}</td></tr>
 * <tr><td>{@code DATA_LOSS}</td><td>what is stored is damaged</td></tr>
 * <tr><td>{@code INTERNAL}</td><td>the server failed, or what it sent can't be understood</td></tr>
 * <tr><td>{@code UNIMPLEMENTED}</td><td>this server does not have what the request asks for</td></tr>
 * <tr><td>{@code UNAUTHENTICATED}, {@code PERMISSION_DENIED}</td><td>the token is missing or wrong, or does not allow
 * this</td></tr>
 * </table>
 *
 * <p>{@link #getCause()} is gRPC's own exception where there was one.
 *
 * @serial exclude
 */
@SuppressWarnings({"serial", "InvalidBlockTag"}) // it can't be serialized, and Error Prone mistakes what says so
public final class PalaverException extends RuntimeException {
    @Serial
    private static final long serialVersionUID = 1;

    private static final String DOMAIN = "palaver.v1";

    /**
     * One invalid field of a request.
     *
     * @param field its path in the request, for instance "history.max_messages"
     * @param description what is wrong with it and what is allowed
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
     * Returns what happened, for people to read. The wording may change.
     *
     * @return the text alone; {@link #getMessage()} has the status and the reason, too
     */
    public String description() {
        return description;
    }

    /**
     * Returns the exact reason: the name of a value of the contract's {@link chat.palaver.v1.ErrorReason} without its
     * prefix, for instance "ASSISTANT_NOT_FOUND". Expect reasons that you do not know, and go by the status then.
     *
     * @return the reason; empty when the error does not come from a Palaver server, for instance because there is none
     */
    public String reason() {
        return reason;
    }

    /**
     * Returns the invalid fields of the request, all of them.
     *
     * @return the fields; empty unless the reason is "INVALID_FIELD"
     */
    public List<FieldViolation> fieldViolations() {
        return fieldViolations;
    }

    /**
     * Returns after how long the same request may succeed.
     *
     * @return the delay, or nothing where the server gives no such hint
     */
    public Optional<Duration> retryDelay() {
        return Optional.ofNullable(retryDelay);
    }

    /** Returns the exception for what gRPC has thrown. */
    static PalaverException of(Throwable thrown) {
        Status status = Status.fromThrowable(thrown);
        // gRPC cancels a call whose message it can't parse.
        if (status.getCode() == Status.Code.CANCELLED
                && status.getCause() instanceof StatusRuntimeException unread
                && unread.getStatus().getCode() == Status.Code.INTERNAL) {
            return malformed(unread.getMessage(), thrown);
        }
        return new PalaverException(status.getCode(), description(status), Details.of(thrown), thrown);
    }

    /** Returns the exception for an answer that breaks the contract: {@code what} says in which way. */
    static PalaverException malformed(String what, Throwable cause) {
        return withoutDetails(Status.Code.INTERNAL, "the server's answer can't be understood: " + what, cause);
    }

    /** Returns the exception for whoever waits for a call that the program itself has left. */
    static PalaverException left(String how, Throwable cause) {
        return withoutDetails(Status.Code.CANCELLED, how, cause);
    }

    /** Returns the exception for whoever waits for a call that was made on behalf of another one, which is over. */
    static PalaverException left(Context context) {
        Status status = Contexts.statusFromCancelled(context);
        return withoutDetails(status.getCode(), description(status), status.getCause());
    }

    /** Returns the exception for whoever reads the text alone, which can't be taken back. */
    static PalaverException begunAnew() {
        String message = "the connection broke, and the turn had to run anew with another reply";
        return withoutDetails(Status.Code.UNAVAILABLE, message, null);
    }

    /** Returns this exception as if it had been made by the thread that throws it, for traces that lead somewhere. */
    PalaverException here() {
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
        // Why there is no connection is told by the cause alone.
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
                return NONE; // Something between us and the server has changed the status: its details are not ours.
            }
            return new Details(reason, violations, retryDelay);
        }
    }
}
