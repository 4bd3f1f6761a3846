/** What can go wrong. */
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

/** The reasons that this version knows: the values of the contract's `ErrorReason`, which says what to do about each. */
export type KnownReason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">;

/** One invalid field of a request. */
export interface FieldViolation {
  /** Its path in the contract's request, for instance `"history.max_messages"`. */
  readonly field: string;
  /** What is wrong with it and what is allowed. */
  readonly description: string;
}

/** The details of an error that the server has told. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly fieldViolations?: readonly FieldViolation[];
  readonly retryDelayMs?: number | undefined;
}

/**
 * A call failed. Every call of the client fails with this error and no other.
 *
 * The `message` is for people to read, and its wording may change: go by `reason` and `status`. The `cause` is the error
 * of gRPC, or the reason of the `AbortSignal` that ended the call.
 */
export class PalaverError extends Error {
  static {
    this.prototype.name = "PalaverError";
  }

  /**
   * The gRPC status by its name. `"CANCELLED"` is also the status of a call that the program itself has left, and
   * `"UNAVAILABLE"` that of a server that can't be reached.
   */
  readonly status: StatusName;

  /**
   * The exact reason, for instance `"ASSISTANT_NOT_FOUND"`. Empty when the error does not come from a Palaver server, for
   * instance because there is none. Expect reasons that you do not know, and go by `status` then.
   */
  readonly reason: KnownReason | "" | (string & {});

  /** The invalid fields of the request, all of them. */
  readonly fieldViolations: readonly FieldViolation[];

  /** After how many milliseconds the same request may succeed; `undefined` where the server gives no such hint. */
  readonly retryDelayMs: number | undefined;

  constructor(message: string, status: StatusName, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.reason = details.reason ?? "";
    this.fieldViolations = details.fieldViolations ?? [];
    this.retryDelayMs = details.retryDelayMs;
  }

  /** The gRPC status by its number, as in grpc-js's `ServiceError`. */
  get code(): Code {
    return Code[this.status];
  }
}

/** Returns the error for one of gRPC's, with the details that came with it. */
export function fromServiceError(error: ServiceError): PalaverError {
  const status = (Code[error.code] as StatusName | undefined) ?? "UNKNOWN";
  return new PalaverError(error.details || "the call failed without a message", status, details(error), {
    cause: error,
  });
}

/** Returns the error for a reply that breaks the contract: `what` says in which way. */
export function malformed(what: string): PalaverError {
  return new PalaverError(`the server's reply can't be understood: ${what}`, "INTERNAL");
}

/** Returns the error for a call that the program itself has left, for a reason of its own. */
export function cancelled(cause: unknown): PalaverError {
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new PalaverError(`the call was cancelled${why}`, "CANCELLED", {}, { cause });
}

/** Returns the error for whoever reads the text alone, which can't be taken back. */
export function begunAnew(): PalaverError {
  return new PalaverError("the connection broke, and the turn had to run anew with another reply", "UNAVAILABLE");
}

function details(error: ServiceError): ErrorDetails {
  try {
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    const status = fromBinary(StatusSchema, bytes instanceof Uint8Array ? bytes : new Uint8Array());
    // Where something between us and the server has changed the status, the details are not ours.
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
