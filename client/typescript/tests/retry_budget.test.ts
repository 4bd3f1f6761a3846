/** Posting again: what the shared vectors do not cover. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { PalaverError } from "@palaver-chat/client";

import { RetryBudget } from "#dist/retry_budget.js";

import { Clock } from "./support/clock.js";

test("posting again never ends if both limits are infinite", () => {
  const error = new PalaverError("Connection dropped", "UNAVAILABLE");
  assert.equal(new RetryBudget(Infinity, Infinity, new Clock()).delayAfter(error), 100);
});

test("each post gets the time that is left, which is never negative", () => {
  const clock = new Clock();
  const budget = new RetryBudget(3_000, 10_000, clock);
  assert.equal(budget.timeLeftMs, 3_000);
  clock.time += 1_000;
  assert.equal(budget.timeLeftMs, 2_000);
  clock.time += 5_000;
  assert.equal(budget.timeLeftMs, 0);
  assert.equal(new RetryBudget(Infinity, 0, clock).timeLeftMs, Infinity);
});

test("a stream that was reset with CANCEL is a break, in the words of grpc-js", () => {
  const error = new PalaverError("Call cancelled", "CANCELLED");
  assert.notEqual(new RetryBudget(Infinity, 10_000).delayAfter(error), undefined);
});
