/**
 * What the caller has had of a reply, so that it gets each piece once however often the turn is posted.
 */
import { create, equals } from "@bufbuild/protobuf";

import { SkillCallSchema, SkillResultSchema, TextDeltaSchema } from "./v1.js";
import type { PostUserQueryResponse } from "./v1.js";

/**
 * An event of a reply. Its `case` tells what happened, and `value` is the message of the contract:
 *
 * - `started`: the turn was accepted. It comes first. A second one says that the reply begins anew, and makes void what
 *   came before it.
 * - `textDelta`: a piece of the reply, to be appended to what came before.
 * - `skillCall`, `skillResult`: the model asked for a skill; a skill answered.
 * - `completed`: the turn is stored. It comes last.
 *
 * Newer servers may have events that this version does not know. They are left out.
 */
export type Event = Exclude<PostUserQueryResponse["event"], { case: undefined }>;

type SkillEvent = Extract<Event, { case: "skillCall" | "skillResult" }>;

/** The events that were handed out, and what of them a repeated stream has still to repeat. */
export class Progress {
  #begun = false;
  #completed = false;
  #text = "";
  #skills: SkillEvent[] = [];
  /** All of the stream that repeats what the caller has had; `undefined` while none does. */
  #repeated: Event[] | undefined;
  #textLeft = "";
  #skillsLeft: SkillEvent[] = [];

  /** Notes that the events begin again with the first one. */
  postAgain(): void {
    if (this.#begun) {
      this.#repeated = [];
      this.#textLeft = this.#text;
      this.#skillsLeft = [...this.#skills];
    }
  }

  /** Whether the last event was handed out. Nothing comes after it. */
  get completed(): boolean {
    return this.#completed;
  }

  /** Takes the next event of the stream, and returns those that the caller gets. */
  accept(event: PostUserQueryResponse["event"]): Event[] {
    if (event.case === undefined || this.#completed) {
      return []; // an event of a newer server, or what the turn, which is stored, does not need
    }
    if (this.#repeated === undefined) {
      return [this.#handOut(event)];
    }
    this.#repeated.push(event);
    switch (event.case) {
      case "started":
        return [];
      case "textDelta":
        return this.#repeatText(event.value.text);
      case "skillCall":
      case "skillResult":
        return this.#repeatSkill(event);
      case "completed":
        return this.#textLeft !== "" || this.#skillsLeft.length > 0 ? this.#beginAnew() : [this.#handOut(event)];
    }
  }

  // Both texts end where a character ends, so the comparison of UTF-16 units never parts a surrogate pair.
  #repeatText(text: string): Event[] {
    const length = Math.min(text.length, this.#textLeft.length);
    if (text.slice(0, length) !== this.#textLeft.slice(0, length)) {
      return this.#beginAnew();
    }
    this.#textLeft = this.#textLeft.slice(length);
    if (length === text.length) {
      return [];
    }
    return [this.#handOut({ case: "textDelta", value: create(TextDeltaSchema, { text: text.slice(length) }) })];
  }

  #repeatSkill(event: SkillEvent): Event[] {
    const index = this.#skillsLeft.findIndex((other) => isSame(event, other));
    if (index < 0) {
      return [this.#handOut(event)];
    }
    this.#skillsLeft.splice(index, 1);
    return [];
  }

  /** Hands out the whole stream from its `started`: what came before it is void. */
  #beginAnew(): Event[] {
    const events = this.#repeated ?? [];
    this.#repeated = undefined;
    this.#text = "";
    this.#skills = [];
    return events.map((event) => this.#handOut(event));
  }

  #handOut(event: Event): Event {
    switch (event.case) {
      case "started":
        this.#begun = true;
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
