/** The two kinds of call that the service has, as promise and as iteration, ended by an `AbortSignal`. */
import type { DescMethodServerStreaming, DescMethodUnary, DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { ServiceError } from "@grpc/grpc-js";

import type { Connection } from "./connection.js";
import { cancelled, fromServiceError } from "./errors.js";
import { grpcMethod } from "./grpc.js";

/** The limits of a call. */
export interface Limits {
  /** How many milliseconds it may take; `Infinity` for any number. */
  readonly timeoutMs: number;
  /** Ends it. */
  readonly signal: AbortSignal;
}

/** Makes a unary call. Fails with a `PalaverError`. */
export async function unary<I extends DescMessage, O extends DescMessage>(
  connection: Connection,
  method: DescMethodUnary<I, O>,
  request: MessageShape<I>,
  { timeoutMs, signal }: Limits,
): Promise<MessageShape<O>> {
  throwIfLeft(signal);
  const { path, requestSerialize, responseDeserialize } = grpcMethod(method);
  let leave = (): void => undefined;
  try {
    return await new Promise<MessageShape<O>>((resolve, reject) => {
      const call = connection.grpc.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        connection.metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, response) => {
          if (error) {
            reject(error);
          } else {
            resolve(response as MessageShape<O>);
          }
        },
      );
      leave = () => {
        call.cancel();
      };
      signal.addEventListener("abort", leave);
    });
  } catch (error) {
    throwIfLeft(signal);
    throw fromServiceError(error as ServiceError);
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/**
 * Makes a call whose response is a stream, when the iteration begins, and ends it when the iteration does. Fails with a
 * `PalaverError`.
 */
export async function* serverStream<I extends DescMessage, O extends DescMessage>(
  connection: Connection,
  method: DescMethodServerStreaming<I, O>,
  request: MessageShape<I>,
  { timeoutMs, signal }: Limits,
): AsyncGenerator<MessageShape<O>, void, undefined> {
  throwIfLeft(signal);
  const { path, requestSerialize, responseDeserialize } = grpcMethod(method);
  const call = connection.grpc.makeServerStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    request,
    connection.metadata(),
    { deadline: Date.now() + timeoutMs },
  );
  const leave = (): void => {
    call.cancel();
  };
  signal.addEventListener("abort", leave);
  // gRPC tells an error also to a reader that has left, and Node ends the process over one that nobody listens to.
  call.on("error", () => undefined);
  try {
    // Its reading goes no further ahead than its buffer of a few messages; the rest waits at the server.
    for await (const message of call) {
      throwIfLeft(signal);
      yield message as MessageShape<O>;
    }
  } catch (error) {
    throwIfLeft(signal);
    throw fromServiceError(error as ServiceError);
  } finally {
    signal.removeEventListener("abort", leave);
    call.cancel();
  }
}

function throwIfLeft(signal: AbortSignal): void {
  if (signal.aborted) {
    throw cancelled(signal.reason);
  }
}
