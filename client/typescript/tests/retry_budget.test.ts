/** Posting again: what the shared vectors do not cover. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { PalaverError } from "@palaver-chat/client";

import { Attempts } from "#dist/attempts.js";

import { Clock } from "./support/clock.js";

test("posting again never ends if both limits are infinite", () => {
  const error = new PalaverError("Connection dropped", "UNAVAILABLE");
  assert.equal(new Attempts(Infinity, Infinity, new Clock()).backoff(error), 100);
});

test("each post gets the time that is left, which is never negative", () => {
  const clock = new Clock();
  const attempts = new Attempts(3_000, 10_000, clock);
  assert.equal(attempts.timeLeftMs, 3_000);
  clock.time += 1_000;
  assert.equal(attempts.timeLeftMs, 2_000);
  clock.time += 5_000;
  assert.equal(attempts.timeLeftMs, 0);
  assert.equal(new Attempts(Infinity, 0, clock).timeLeftMs, Infinity);
});

test("a stream that was reset with CANCEL is a break, in the words of grpc-js", () => {
  const error = new PalaverError("Call cancelled", "CANCELLED");
  assert.notEqual(new Attempts(Infinity, 10_000).backoff(error), undefined);
});
