/**
 * Delivers each event of a reply once, even if the turn is posted several times.
 */
import { create, equals } from "@bufbuild/protobuf";

import { SkillCallSchema, SkillResultSchema, TextDeltaSchema } from "./v1.js";
import type { PostUserQueryResponse } from "./v1.js";

/**
 * An event of a reply. `case` is its kind, and `value` the message of the contract:
 *
 * - `started`: the turn was accepted. This is the first event. A second one means that the reply restarts, and voids
 *   all events before it.
 * - `textDelta`: a piece of the reply, to be appended to the text so far.
 * - `skillCall`, `skillResult`: the model called a skill, and the call has a result.
 * - `progress`: the turn is still running, and the server had nothing else to send for a while. It has no content, and
 *   is never stored or replayed. By default, servers send one after every 15 s of silence.
 * - `completed`: the turn is stored. This is the last event.
 *
 * Events of newer servers that this version does not know are skipped.
 */
export type Event = Exclude<PostUserQueryResponse["event"], { case: undefined }>;

/** An event that a replay repeats. */
type ReplayedEvent = Exclude<Event, { case: "progress" }>;

type SkillEvent = Extract<Event, { case: "skillCall" | "skillResult" }>;

/** How many posts in a row may bring nothing new before the caller gets the error: each may be a paid model call. */
const MAX_FRUITLESS_POSTS = 3;

/** What one post of a turn has brought so far. */
class PostOutcome {
  answered = false;
  /** Whether the caller got text or skill events from it. */
  delivered = false;
  restarted = false;

  constructor(readonly repeated: boolean) {}

  /** Whether it brought something new. A reply that starts over does not: it replaces what was there before. */
  get extendsReply(): boolean {
    return this.delivered && !this.restarted;
  }

  /** Whether the server ran or joined the turn again, with nothing new so far. */
  get fruitless(): boolean {
    return this.repeated && this.answered && !this.extendsReply;
  }
}

/** The events that were delivered, and those of them that a replay has yet to repeat. */
export class ReplayFilter {
  #post = new PostOutcome(false);
  #fruitlessBefore = 0;
  #started = false;
  #completed = false;
  #text = "";
  #skills: SkillEvent[] = [];
  /** The events of the new stream so far, during a replay; otherwise `undefined`. */
  #replay: ReplayedEvent[] | undefined;
  #expectedText = "";
  #expectedSkills: SkillEvent[] = [];

  /** Expects the events of the turn from the first one again, because the turn is posted again. */
  beginReplay(): void {
    this.#fruitlessBefore = this.#fruitlessPosts();
    this.#post = new PostOutcome(true);
    if (this.#started) {
      this.#replay = [];
      this.#expectedText = this.#text;
      this.#expectedSkills = [...this.#skills];
    }
  }

  /** Whether the last event was delivered. */
  get completed(): boolean {
    return this.#completed;
  }

  /** Whether the turn may be posted again, now that the current post has broken off. */
  get mayRepeat(): boolean {
    return this.#fruitlessPosts() < MAX_FRUITLESS_POSTS;
  }

  /** Returns how many posts in a row, up to the current one, brought nothing new. */
  #fruitlessPosts(): number {
    return this.#post.extendsReply ? 0 : this.#fruitlessBefore + Number(this.#post.fruitless);
  }

  /** Takes the next event of the stream and returns the events to deliver. */
  accept(event: PostUserQueryResponse["event"]): Event[] {
    if (event.case === undefined || this.#completed) {
      return []; // unknown, or after the end
    }
    this.#post.answered = true;
    if (event.case === "progress") {
      return [event];
    }
    if (this.#replay === undefined) {
      return [this.#deliver(event)];
    }
    this.#replay.push(event);
    switch (event.case) {
      case "started":
        return [];
      case "textDelta":
        return this.#matchText(event.value.text);
      case "skillCall":
      case "skillResult":
        return this.#matchSkillEvent(event);
      case "completed":
        return this.#expectedText !== "" || this.#expectedSkills.length > 0 ? this.#restart() : [this.#deliver(event)];
    }
  }

  /**
   * Skips text that was delivered before and delivers the rest; restarts the reply if the text differs.
   *
   * Pieces consist of whole characters, so comparing UTF-16 units never splits a surrogate pair.
   */
  #matchText(text: string): Event[] {
    const length = Math.min(text.length, this.#expectedText.length);
    if (text.slice(0, length) !== this.#expectedText.slice(0, length)) {
      return this.#restart();
    }
    this.#expectedText = this.#expectedText.slice(length);
    if (length === text.length) {
      return [];
    }
    return [this.#deliver({ case: "textDelta", value: create(TextDeltaSchema, { text: text.slice(length) }) })];
  }

  /** Skips a skill event that was delivered before, once and in any order, and delivers any other one. */
  #matchSkillEvent(event: SkillEvent): Event[] {
    const index = this.#expectedSkills.findIndex((other) => isSame(event, other));
    if (index < 0) {
      return [this.#deliver(event)];
    }
    this.#expectedSkills.splice(index, 1);
    return [];
  }

  /** Delivers the new stream from its `started`, which voids all events before it. */
  #restart(): Event[] {
    const events = this.#replay ?? [];
    this.#replay = undefined;
    this.#text = "";
    this.#skills = [];
    this.#post.restarted = true;
    return events.map((event) => this.#deliver(event));
  }

  /** Records an event as delivered and returns it. */
  #deliver(event: ReplayedEvent): Event {
    switch (event.case) {
      case "started":
        this.#started = true;
        break;
      case "textDelta":
        this.#post.delivered = true;
        this.#text += event.value.text;
        break;
      case "skillCall":
      case "skillResult":
        this.#post.delivered = true;
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
