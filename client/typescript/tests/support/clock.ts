import type { Chance } from "#dist/attempts.js";

/** A clock that tests set, and numbers that are not random. */
export class Clock implements Chance {
  constructor(
    public time = 1_000,
    public luck = 1,
  ) {}
  readonly now = (): number => this.time;
  readonly random = (): number => this.luck;
}
