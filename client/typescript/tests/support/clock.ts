import type { Environment } from "#dist/retry_budget.js";

/** A clock that tests set, and numbers that are not random. */
export class Clock implements Environment {
  constructor(
    public time = 1_000,
    public luck = 1,
  ) {}
  readonly now = (): number => this.time;
  readonly random = (): number => this.luck;
}
