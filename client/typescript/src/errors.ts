/** The errors of calls. */
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { Any } from "@bufbuild/protobuf/wkt";
import { status as Code } from "@grpc/grpc-js";
import type { ServiceError } from "@grpc/grpc-js";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import type { ErrorReason } from "./v1.js";

const DOMAIN = "palaver.v1";

/** The name of a gRPC status, for instance `"NOT_FOUND"`; the names of grpc-js's `status`. */
export type StatusName = Exclude<keyof typeof Code, "OK">;

/** The reasons that this version knows: the values of the contract's `ErrorReason`, where each is documented. */
export type KnownReason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">;

/** One invalid field of a request. */
export interface FieldViolation {
  /** Its path in the contract's request, for instance `"history.max_messages"`. */
  readonly field: string;
  /** What is wrong with the field and what is allowed. */
  readonly description: string;
}

/** The details that a server sent with an error. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly fieldViolations?: readonly FieldViolation[];
  readonly retryDelayMs?: number | undefined;
}

/**
 * The error of a failed call. All errors of calls are of this class.
 *
 * The `message` is for people to read, and its wording may change: programs should use `reason` and `status`. The
 * `cause` is the error of gRPC or of the token function, or the reason of the `AbortSignal` that ended the call.
 */
export class PalaverError extends Error {
  static {
    this.prototype.name = "PalaverError";
  }

  /**
   * The name of the gRPC status. It is `"CANCELLED"` if the program cancelled the call, and `"UNAVAILABLE"` if the
   * server can't be reached.
   */
  readonly status: StatusName;

  /**
   * The exact cause, for instance `"ASSISTANT_NOT_FOUND"`. Empty if the error does not come from a Palaver server, for
   * instance because the server can't be reached. Newer servers may send reasons that you don't know: fall back to
   * `status` then.
   */
  readonly reason: KnownReason | "" | (string & {});

  /** All invalid fields of the request. */
  readonly fieldViolations: readonly FieldViolation[];

  /** How many milliseconds to wait before sending the same request again; `undefined` if the server did not suggest one. */
  readonly retryDelayMs: number | undefined;

  constructor(message: string, status: StatusName, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.reason = details.reason ?? "";
    this.fieldViolations = details.fieldViolations ?? [];
    this.retryDelayMs = details.retryDelayMs;
  }

  /** The number of the gRPC status, as in grpc-js's `ServiceError`. */
  get code(): Code {
    return Code[this.status];
  }
}

/** Converts an error of gRPC, including its details. */
export function fromServiceError(error: ServiceError): PalaverError {
  const status = (Code[error.code] as StatusName | undefined) ?? "UNKNOWN";
  return new PalaverError(error.details || "the call failed without a message", status, details(error), {
    cause: error,
  });
}

/** Returns the error for a response that breaks the contract. */
export function malformedResponse(problem: string): PalaverError {
  return new PalaverError(`the server's response can't be understood: ${problem}`, "INTERNAL");
}

/** Returns the error for a call that the program itself has cancelled. */
export function cancelled(cause: unknown): PalaverError {
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new PalaverError(`the call was cancelled${why}`, "CANCELLED", {}, { cause });
}

/** Returns the error for a call whose timeout expired before it was sent. */
export function deadlineExceeded(): PalaverError {
  return new PalaverError("the timeout of the call expired", "DEADLINE_EXCEEDED");
}

/** Returns the error for a call that was not sent because the token function failed. */
export function tokenFailed(cause: unknown): PalaverError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new PalaverError(`the token function failed: ${why}`, "UNAUTHENTICATED", {}, { cause });
}

/** Returns the error for reading only the text of a reply that restarts: delivered text can't be taken back. */
export function replyRestarted(): PalaverError {
  return new PalaverError("the connection broke, and the turn ran again with a different reply", "UNAVAILABLE");
}

function details(error: ServiceError): ErrorDetails {
  try {
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    const status = fromBinary(StatusSchema, bytes instanceof Uint8Array ? bytes : new Uint8Array());
    // If the statuses differ, a proxy has tampered with them, and the details can't be trusted.
    return Code[status.code] === Code[error.code] ? read(status.details) : {};
  } catch {
    return {};
  }
}

function read(details: readonly Any[]): ErrorDetails {
  let reason = "";
  let fieldViolations: FieldViolation[] = [];
  let retryDelayMs: number | undefined;
  for (const detail of details) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info?.domain === DOMAIN) {
      reason = info.reason;
    }
    const request = anyUnpack(detail, BadRequestSchema);
    if (request) {
      fieldViolations = request.fieldViolations.map(({ field, description }) => ({ field, description }));
    }
    const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
    if (delay) {
      retryDelayMs = Number(delay.seconds) * 1_000 + delay.nanos / 1e6;
    }
  }
  return { reason, fieldViolations, retryDelayMs };
}
