/**
 * Records the events of a reply that were delivered, so that each is delivered once however often the turn is posted.
 */
import { create, equals } from "@bufbuild/protobuf";

import { SkillCallSchema, SkillResultSchema, TextDeltaSchema } from "./v1.js";
import type { PostUserQueryResponse } from "./v1.js";

/**
 * An event of a reply. `case` is its kind, and `value` the message of the contract:
 *
 * - `started`: the turn was accepted. This is the first event. A second one means that the reply restarts, and voids
 *   the events before it.
 * - `textDelta`: a piece of the reply, to be appended to the text so far.
 * - `skillCall`, `skillResult`: the model called a skill; the skill answered.
 * - `completed`: the turn is stored. This is the last event.
 *
 * Events of newer servers that this version does not know are skipped.
 */
export type Event = Exclude<PostUserQueryResponse["event"], { case: undefined }>;

type SkillEvent = Extract<Event, { case: "skillCall" | "skillResult" }>;

/** The events that were delivered, and those of them that a replay has not repeated yet. */
export class Progress {
  #started = false;
  #completed = false;
  #text = "";
  #skills: SkillEvent[] = [];
  /** Everything received in a replay, to be delivered on a restart; `undefined` outside a replay. */
  #replay: Event[] | undefined;
  #textLeft = "";
  #skillsLeft: SkillEvent[] = [];

  /** Expects the events to begin again with the first one. */
  beginReplay(): void {
    if (this.#started) {
      this.#replay = [];
      this.#textLeft = this.#text;
      this.#skillsLeft = [...this.#skills];
    }
  }

  /** Whether the last event was delivered. */
  get completed(): boolean {
    return this.#completed;
  }

  /** Takes the next event of the stream and returns the events to deliver. */
  accept(event: PostUserQueryResponse["event"]): Event[] {
    if (event.case === undefined || this.#completed) {
      return []; // unknown, or after the end
    }
    if (this.#replay === undefined) {
      return [this.#deliver(event)];
    }
    this.#replay.push(event);
    switch (event.case) {
      case "started":
        return [];
      case "textDelta":
        return this.#skipText(event.value.text);
      case "skillCall":
      case "skillResult":
        return this.#skipSkill(event);
      case "completed":
        return this.#textLeft !== "" || this.#skillsLeft.length > 0 ? this.#restart() : [this.#deliver(event)];
    }
  }

  // Pieces consist of whole characters, so comparing UTF-16 units never splits a surrogate pair.
  #skipText(text: string): Event[] {
    const length = Math.min(text.length, this.#textLeft.length);
    if (text.slice(0, length) !== this.#textLeft.slice(0, length)) {
      return this.#restart();
    }
    this.#textLeft = this.#textLeft.slice(length);
    if (length === text.length) {
      return [];
    }
    return [this.#deliver({ case: "textDelta", value: create(TextDeltaSchema, { text: text.slice(length) }) })];
  }

  #skipSkill(event: SkillEvent): Event[] {
    const index = this.#skillsLeft.findIndex((other) => isSame(event, other));
    if (index < 0) {
      return [this.#deliver(event)];
    }
    this.#skillsLeft.splice(index, 1);
    return [];
  }

  /** Delivers the whole stream from its `started`, which voids the earlier events. */
  #restart(): Event[] {
    const events = this.#replay ?? [];
    this.#replay = undefined;
    this.#text = "";
    this.#skills = [];
    return events.map((event) => this.#deliver(event));
  }

  #deliver(event: Event): Event {
    switch (event.case) {
      case "started":
        this.#started = true;
        break;
      case "textDelta":
        this.#text += event.value.text;
        break;
      case "skillCall":
      case "skillResult":
        this.#skills.push(event);
        break;
      case "completed":
        this.#completed = true;
        break;
    }
    return event;
  }
}

function isSame(one: SkillEvent, other: SkillEvent): boolean {
  if (one.case === "skillCall") {
    return other.case === "skillCall" && equals(SkillCallSchema, one.value, other.value);
  }
  return other.case === "skillResult" && equals(SkillResultSchema, one.value, other.value);
}
