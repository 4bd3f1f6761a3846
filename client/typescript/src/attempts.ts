/**
 * When a turn is posted again, and after which pause.
 *
 * It is safe because all posts have the same `requestId`: the server replays a turn that is stored and joins one that
 * still runs. One that was lost with its server, or cancelled because its caller seemed to be gone, runs anew.
 */
import type { PalaverError } from "./errors.js";

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;

// What grpc-js says of a stream that was reset. Proxies end a stream so whose other side has gone.
const RESET = /RST_STREAM|^Call cancelled$/;

/** What the attempts go by besides the errors. */
export interface Chance {
  /** The milliseconds since some moment; they never go back. */
  readonly now: () => number;
  /** A number from 0 to 1. */
  readonly random: () => number;
}

const CHANCE: Chance = { now: () => performance.now(), random: Math.random };

/** How often a turn is posted, and until when. */
export class Attempts {
  readonly #deadline: number;
  readonly #reconnectTimeoutMs: number;
  readonly #chance: Chance;
  #brokenSince: number | undefined;
  #longestPause = FIRST_PAUSE_MS;

  /**
   * @param timeoutMs The limit of the whole turn; `Infinity` for none.
   * @param reconnectTimeoutMs How long the connection may be lost for.
   */
  constructor(timeoutMs: number, reconnectTimeoutMs: number, chance = CHANCE) {
    this.#deadline = chance.now() + timeoutMs;
    this.#reconnectTimeoutMs = reconnectTimeoutMs;
    this.#chance = chance;
  }

  /** How many milliseconds the next post may take; `Infinity` for any number. */
  get timeLeftMs(): number {
    return Math.max(0, this.#deadline - this.#chance.now());
  }

  /** Notes that the server has sent something, so that the next break counts anew. */
  succeeded(): void {
    this.#brokenSince = undefined;
    this.#longestPause = FIRST_PAUSE_MS;
  }

  /** Returns how many milliseconds to wait before posting again; `undefined` where the error is the caller's. */
  pauseAfter(error: PalaverError): number | undefined {
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

/** Whether a call ended because of the way to the server or its stopping, and not for what it asked for. */
function isBreak(error: PalaverError): boolean {
  // Every error that a Palaver server decides has a reason.
  return error.reason === ""
    ? error.status === "UNAVAILABLE" || RESET.test(error.message)
    : error.reason === "SHUTTING_DOWN";
}
