/**
 * Decides whether a turn is posted again, and after which delay.
 *
 * Posting again is safe because all posts of a turn have the same `requestId`: the server replays a stored turn and
 * joins a running one. A turn that was lost with its server, or cancelled because its caller seemed to be gone, runs
 * again.
 */
import type { PalaverError } from "./errors.js";

const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 2_000;

// How grpc-js reports a reset stream. A proxy resets the stream when it loses the server.
const RESET = /RST_STREAM|^Call cancelled$/;

/** The sources of time and randomness. */
export interface Environment {
  /** Returns the time in milliseconds. It never goes back. */
  readonly now: () => number;
  /** Returns a number from 0 to 1. */
  readonly random: () => number;
}

const ENVIRONMENT: Environment = { now: () => performance.now(), random: Math.random };

/** The time that a turn has left: for all of its posts together, and without a connection. */
export class RetryBudget {
  readonly #deadline: number;
  readonly #reconnectTimeoutMs: number;
  readonly #environment: Environment;
  #disconnectedAt: number | undefined;
  #delayMs = FIRST_DELAY_MS;

  /**
   * @param timeoutMs The timeout of the whole turn; `Infinity` for none.
   * @param reconnectTimeoutMs How long the turn may be without a connection; 0 disables posting again.
   */
  constructor(timeoutMs: number, reconnectTimeoutMs: number, environment = ENVIRONMENT) {
    this.#deadline = environment.now() + timeoutMs;
    this.#reconnectTimeoutMs = reconnectTimeoutMs;
    this.#environment = environment;
  }

  /** The timeout of the next post in milliseconds; `Infinity` for none. */
  get timeLeftMs(): number {
    return Math.max(0, this.#deadline - this.#environment.now());
  }

  /** Restores the full reconnect timeout, because an event has arrived. */
  reset(): void {
    this.#disconnectedAt = undefined;
    this.#delayMs = FIRST_DELAY_MS;
  }

  /** Returns how many milliseconds to wait before posting again, or `undefined` if the caller gets the error. */
  delayAfter(error: PalaverError): number | undefined {
    if (!isBreak(error)) {
      return undefined;
    }
    const now = this.#environment.now();
    this.#disconnectedAt ??= now;
    const delayMs = Math.max((this.#delayMs * (1 + this.#environment.random())) / 2, error.retryDelayMs ?? 0);
    this.#delayMs = Math.min(2 * this.#delayMs, MAX_DELAY_MS);
    return now + delayMs > Math.min(this.#disconnectedAt + this.#reconnectTimeoutMs, this.#deadline)
      ? undefined
      : delayMs;
  }
}

/** Returns whether the connection or a shutdown of the server ended the call, rather than the request itself. */
function isBreak(error: PalaverError): boolean {
  // A Palaver server gives a reason for each of its own errors.
  return error.reason === ""
    ? error.status === "UNAVAILABLE" || RESET.test(error.message)
    : error.reason === "SHUTTING_DOWN";
}
