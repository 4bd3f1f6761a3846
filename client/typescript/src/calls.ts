/** Unary calls as promises and streaming calls as async iterables, both cancelled by an `AbortSignal`. */
import type { DescMethodServerStreaming, DescMethodUnary, DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { ServiceError } from "@grpc/grpc-js";

import type { Connection } from "./connection.js";
import { cancelled, fromServiceError } from "./errors.js";
import { grpcMethod } from "./grpc.js";

/** The limits of a call. */
export interface Limits {
  /** The timeout in milliseconds; `Infinity` for none. */
  readonly timeoutMs: number;
  /** Cancels the call. */
  readonly signal: AbortSignal;
}

/** Makes a unary call. Fails with a `PalaverError`. */
export async function unary<I extends DescMessage, O extends DescMessage>(
  connection: Connection,
  method: DescMethodUnary<I, O>,
  request: MessageShape<I>,
  limits: Limits,
): Promise<MessageShape<O>> {
  const { signal } = limits;
  throwIfCancelled(signal);
  const deadline = Date.now() + limits.timeoutMs;
  const metadata = await connection.metadata(limits);
  throwIfCancelled(signal);
  const { path, requestSerialize, responseDeserialize } = grpcMethod(method);
  let cancel = (): void => undefined;
  try {
    return await new Promise<MessageShape<O>>((resolve, reject) => {
      const call = connection.grpc.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadata,
        { deadline },
        (error, response) => {
          if (error) {
            reject(error);
          } else {
            resolve(response as MessageShape<O>);
          }
        },
      );
      cancel = () => {
        call.cancel();
      };
      signal.addEventListener("abort", cancel);
    });
  } catch (error) {
    throwIfCancelled(signal);
    throw fromServiceError(error as ServiceError);
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/**
 * Makes a call with a streaming response. The call starts and ends with the iteration, which fails with a
 * `PalaverError`.
 */
export async function* serverStream<I extends DescMessage, O extends DescMessage>(
  connection: Connection,
  method: DescMethodServerStreaming<I, O>,
  request: MessageShape<I>,
  limits: Limits,
): AsyncGenerator<MessageShape<O>, void, undefined> {
  const { signal } = limits;
  throwIfCancelled(signal);
  const deadline = Date.now() + limits.timeoutMs;
  const metadata = await connection.metadata(limits);
  throwIfCancelled(signal);
  const { path, requestSerialize, responseDeserialize } = grpcMethod(method);
  const call = connection.grpc.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, metadata, {
    deadline,
  });
  const cancel = (): void => {
    call.cancel();
  };
  signal.addEventListener("abort", cancel);
  // gRPC also emits errors after the iteration has ended, and Node exits on an error without a listener.
  call.on("error", () => undefined);
  try {
    // The stream buffers only a few messages; the rest waits at the server.
    for await (const message of call) {
      throwIfCancelled(signal);
      yield message as MessageShape<O>;
    }
  } catch (error) {
    throwIfCancelled(signal);
    throw fromServiceError(error as ServiceError);
  } finally {
    signal.removeEventListener("abort", cancel);
    call.cancel();
  }
}

function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) {
    throw cancelled(signal.reason);
  }
}
