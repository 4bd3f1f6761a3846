package chat.palaver.support;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.protobuf.MessageLite;
import com.google.rpc.ErrorInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import java.util.concurrent.CompletableFuture;

/** A step of a scripted answer. */
@FunctionalInterface
public interface Step {
    void play(ScriptedServer.Call call, ServerCallStreamObserver<byte[]> answer) throws Exception;

    /** Sends a message. */
    static Step send(MessageLite message) {
        return send(message.toByteArray());
    }

    /** Sends a message that is already serialized. */
    static Step send(byte[] message) {
        return (call, answer) -> answer.onNext(message);
    }

    /** Ends the call with a status and its details. */
    static Step fail(Status status, Message... details) {
        com.google.rpc.Status.Builder rich = com.google.rpc.Status.newBuilder()
                .setCode(status.getCode().value())
                .setMessage(String.valueOf(status.getDescription()));
        for (Message detail : details) {
            rich.addDetails(Any.pack(detail));
        }
        return (call, answer) -> call.end(() -> answer.onError(StatusProto.toStatusRuntimeException(rich.build())));
    }

    /** Ends the call like a Palaver server, with a reason. */
    static Step refuse(Status.Code status, String reason, Message... details) {
        Message[] all = new Message[details.length + 1];
        all[0] =
                ErrorInfo.newBuilder().setDomain("palaver.v1").setReason(reason).build();
        System.arraycopy(details, 0, all, 1, details.length);
        return fail(status.toStatus().withDescription("refused"), all);
    }

    /** Waits for a future or the end of the call. */
    static Step await(CompletableFuture<?> gate) {
        return (call, answer) -> Waiting.until(CompletableFuture.anyOf(gate, call.over()));
    }

    /** Waits for the end of the call. */
    static Step hang() {
        return await(new CompletableFuture<>());
    }

    /**
     * Sends a message repeatedly, as fast as flow control permits.
     *
     * @param stalled completes when flow control stops the server for the first time
     */
    static Step flood(MessageLite message, int count, CompletableFuture<Void> stalled) {
        byte[] bytes = message.toByteArray();
        return (call, answer) -> {
            for (int sent = 0; sent < count && !call.over().isDone(); sent++) {
                if (!answer.isReady()) {
                    stalled.complete(null);
                    Waiting.until(CompletableFuture.anyOf(call.nextReady(answer), call.over()));
                }
                answer.onNext(bytes);
            }
        };
    }
}
