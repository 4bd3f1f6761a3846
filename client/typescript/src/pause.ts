/** The pause between two posts of a turn. */
import { setTimeout as sleep } from "node:timers/promises";

import type { Attempts } from "./attempts.js";
import { PalaverError, cancelled } from "./errors.js";

// Longer timers fire at once.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Waits until the turn may be posted again after an error. Throws the error if the caller is to get it. */
export async function pauseAfter(error: unknown, attempts: Attempts, signal: AbortSignal): Promise<void> {
  const pauseMs = error instanceof PalaverError ? attempts.backoff(error) : undefined;
  if (pauseMs === undefined) {
    throw error;
  }
  try {
    await sleep(Math.min(pauseMs, LONGEST_TIMER_MS), undefined, { signal });
  } catch {
    throw cancelled(signal.reason);
  }
}
