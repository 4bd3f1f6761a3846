/** What the caller has had of a reply: the pure logic. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import type { Event } from "@palaver-chat/client";
import type { PostUserQueryResponse } from "@palaver-chat/client/v1";

import { Progress } from "#dist/progress.js";

import { completed, delta, event, shown, skillCall, skillResult, started, turn } from "./support/replies.js";

/** Plays streams that break one after the other, and returns what a reader is shown. */
function played(...streams: PostUserQueryResponse[][]): string[] {
  const progress = new Progress();
  const events: Event[] = [];
  streams.forEach((stream, number) => {
    if (number > 0) {
      progress.postAgain();
    }
    for (const response of stream) {
      events.push(...progress.accept(response.event));
    }
  });
  return shown(events);
}

test("a stream that does not break is handed out as it is", () => {
  assert.deepEqual(played([started(), delta("a"), skillCall("1"), skillResult("1"), delta("b"), completed()]), [
    "started",
    "a",
    "call 1",
    "result 1",
    "b",
    "completed",
  ]);
});

test("a stream that breaks again and again goes on where it was", () => {
  const streams = [
    [started(), delta("Hel")],
    [],
    [started(), delta("He")],
    [started(), delta("Hello, ")],
    turn("Hello, wor", "ld"),
  ];
  assert.deepEqual(played(...streams), ["started", "Hel", "lo, ", "wor", "ld", "completed"]);
});

test("what comes before the first event shows nothing twice", () => {
  assert.deepEqual(played([], [started()], [], turn("Hi")), ["started", "Hi", "completed"]);
});

describe("characters of two UTF-16 units are never parted,", () => {
  for (const [first, second, expected] of [
    ["👍👍", ["👍", "👍👍"], ["started", "👍👍", "👍", "completed"]],
    ["👍", ["👍🏽"], ["started", "👍", "🏽", "completed"]],
    ["a👍", ["a", "👍", "𝄞"], ["started", "a👍", "𝄞", "completed"]],
    // The same first unit, another character.
    ["x👍", ["x👎"], ["started", "x👍", "started", "x👎", "completed"]],
    ["👍", ["👎"], ["started", "👍", "started", "👎", "completed"]],
  ] as const) {
    test(`${first} and then ${second.join("|")}`, () => {
      const pieces = played([started(), delta(first)], turn(...second));
      assert.deepEqual(pieces, expected);
      assert.ok(pieces.every((piece) => Buffer.from(piece).toString() === piece));
    });
  }
});

test("skills come once, in whichever order they are repeated", () => {
  const begin = [started(), delta("Let me see. "), skillCall("1"), skillCall("2")];
  const replay = [...begin, skillResult("1"), skillResult("2"), delta("It is noon."), completed()];
  assert.deepEqual(played([...begin, skillResult("2")], replay), [
    "started",
    "Let me see. ",
    "call 1",
    "call 2",
    "result 2",
    "result 1",
    "It is noon.",
    "completed",
  ]);
});

test("skill events that are alike are repeated as often as they came", () => {
  const alike = [started(), skillCall("1"), skillCall("1")];
  assert.deepEqual(played(alike, [...alike, skillCall("1"), completed()]), [
    "started",
    "call 1",
    "call 1",
    "call 1",
    "completed",
  ]);
});

test("an empty result and an empty error are not the same", () => {
  const result = event({ case: "skillResult", value: { id: "1", outcome: { case: "content", value: "" } } });
  const error = event({ case: "skillResult", value: { id: "1", outcome: { case: "error", value: "" } } });
  assert.deepEqual(played([started(), result], [started(), error, completed()]), [
    "started",
    "result 1",
    "result 1",
    "started",
    "result 1",
    "completed",
  ]);
});

describe("a reply that goes another way begins again:", () => {
  for (const [name, anew] of Object.entries({
    "other from the start": ["Hi!", " Who are you?"],
    "other later": ["Hello! ", "Who"],
    "other within a piece": ["Hel", "p!"],
    shorter: ["He"],
    nothing: [],
  })) {
    test(name, () => {
      assert.deepEqual(played([started(), delta("Hel"), delta("lo, world")], turn(...anew)), [
        "started",
        "Hel",
        "lo, world",
        "started",
        ...anew,
        "completed",
      ]);
    });
  }

  test("without the skill that was shown", () => {
    assert.deepEqual(played([started(), delta("Hi"), skillCall("1")], turn("Hi", " there")), [
      "started",
      "Hi",
      "call 1",
      " there",
      "started",
      "Hi",
      " there",
      "completed",
    ]);
  });

  test("and what came before it is forgotten", () => {
    const streams = [
      [started(), delta("One"), skillCall("1")],
      [started(), delta("Two"), skillCall("2")],
      [started(), delta("Two"), skillCall("2"), completed()],
    ];
    assert.deepEqual(played(...streams), ["started", "One", "call 1", "started", "Two", "call 2", "completed"]);
  });

  test("more than once", () => {
    const streams = [
      [started(), delta("One")],
      [started(), delta("Two")],
      [started(), delta("Tw")],
      turn("Two", " it is"),
    ];
    assert.deepEqual(played(...streams), ["started", "One", "started", "Two", " it is", "completed"]);
  });
});

test("unknown events are passed over, also in what is repeated", () => {
  const unknown = event({ case: undefined });
  assert.deepEqual(played([unknown, started(), unknown, delta("a")], [started(), unknown, ...turn("ab").slice(1)]), [
    "started",
    "a",
    "b",
    "completed",
  ]);
});

test("nothing comes after completed", () => {
  const progress = new Progress();
  assert.equal(progress.completed, false);
  const events = [...turn("Hi"), delta("more"), completed()].flatMap((response) => progress.accept(response.event));
  assert.deepEqual(shown(events), ["started", "Hi", "completed"]);
  assert.equal(progress.completed, true);
});
