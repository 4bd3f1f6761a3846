/**
 * Decides whether a turn is posted again, and after which pause.
 *
 * Posting again is safe because every post has the same `requestId`: the server replays a turn that is stored and joins
 * one that is still running. A turn that was lost with its server, or cancelled because its caller seemed to be gone,
 * runs again.
 */
import type { PalaverError } from "./errors.js";

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;

// How grpc-js reports a reset stream. Proxies reset a stream when its server is gone.
const RESET = /RST_STREAM|^Call cancelled$/;

/** The sources of time and randomness. */
export interface Chance {
  /** Returns the time in milliseconds. It never goes back. */
  readonly now: () => number;
  /** Returns a number from 0 to 1. */
  readonly random: () => number;
}

const CHANCE: Chance = { now: () => performance.now(), random: Math.random };

/** The posts of one turn. */
export class Attempts {
  readonly #deadline: number;
  readonly #reconnectTimeoutMs: number;
  readonly #chance: Chance;
  #brokenSince: number | undefined;
  #longestPause = FIRST_PAUSE_MS;

  /**
   * @param timeoutMs The timeout of the whole turn; `Infinity` for none.
   * @param reconnectTimeoutMs How long the connection may be lost.
   */
  constructor(timeoutMs: number, reconnectTimeoutMs: number, chance = CHANCE) {
    this.#deadline = chance.now() + timeoutMs;
    this.#reconnectTimeoutMs = reconnectTimeoutMs;
    this.#chance = chance;
  }

  /** The timeout of the next post in milliseconds; `Infinity` for none. */
  get timeLeftMs(): number {
    return Math.max(0, this.#deadline - this.#chance.now());
  }

  /** Forgets earlier breaks. Called whenever an event arrives. */
  reset(): void {
    this.#brokenSince = undefined;
    this.#longestPause = FIRST_PAUSE_MS;
  }

  /** Returns how many milliseconds to wait before posting again, or `undefined` if the caller is to get the error. */
  backoff(error: PalaverError): number | undefined {
    if (!isBreak(error)) {
      return undefined;
    }
    const now = this.#chance.now();
    this.#brokenSince ??= now;
    const pause = Math.max((this.#longestPause * (1 + this.#chance.random())) / 2, error.retryDelayMs ?? 0);
    this.#longestPause = Math.min(2 * this.#longestPause, LONGEST_PAUSE_MS);
    return now + pause > Math.min(this.#brokenSince + this.#reconnectTimeoutMs, this.#deadline) ? undefined : pause;
  }
}

/** Returns whether a call failed because its connection broke or the server is shutting down, not for what it asked. */
function isBreak(error: PalaverError): boolean {
  // A Palaver server gives a reason with every error.
  return error.reason === ""
    ? error.status === "UNAVAILABLE" || RESET.test(error.message)
    : error.reason === "SHUTTING_DOWN";
}
