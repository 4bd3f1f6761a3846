/** The pause between two posts of a turn. */
import { setTimeout as sleep } from "node:timers/promises";

import type { RetryBudget } from "./retry_budget.js";
import { PalaverError, cancelled } from "./errors.js";

/** The longest timer of Node.js. Longer ones fire immediately. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Waits until the turn may be posted again after an error. Throws the error if the caller gets it. */
export async function pauseAfter(error: unknown, budget: RetryBudget, signal: AbortSignal): Promise<void> {
  const delayMs = error instanceof PalaverError ? budget.delayAfter(error) : undefined;
  if (delayMs === undefined) {
    throw error;
  }
  try {
    await sleep(Math.min(delayMs, LONGEST_TIMER_MS), undefined, { signal });
  } catch {
    throw cancelled(signal.reason);
  }
}
