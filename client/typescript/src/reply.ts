/** A reply as it arrives. */
import { AsyncResource } from "node:async_hooks";

import type { RetryBudget } from "./retry_budget.js";
import type { Limits } from "./calls.js";
import { malformedResponse, replyRestarted } from "./errors.js";
import { pauseAfter } from "./pause.js";
import { ReplayFilter } from "./replay_filter.js";
import type { Event } from "./replay_filter.js";
import type { PostUserQueryResponse, TurnCompleted } from "./v1.js";

/** The abort reason of a reply whose reader called `return`. */
const RETURNED = Symbol("returned");

/** Posts the turn. */
export type Post = (limits: Limits) => AsyncIterable<PostUserQueryResponse>;

/**
 * A reply as it arrives: an async iterable of events, or of only their text with {@link text}. It can be iterated only
 * once.
 *
 * The call starts before the client returns the reply and ends with the iteration. `break`, an exception in the loop,
 * {@link return} and the signal of the call end it early. The turn is then
 * cancelled and not stored, unless it is completed or was posted with `OnDisconnect.CONTINUE`. A reply that is neither
 * read to its end nor ended early keeps its call open.
 *
 * When the connection breaks or the server shuts down, the turn is posted again with the same `requestId`, and the
 * iteration resumes where it stopped. If the turn had to run again and the model wrote something else, the reply
 * restarts: a second `started` voids all events before it. With `OnDisconnect.CONTINUE`, this happens only if the
 * server dies. After three posts in a row that the server answered but that brought nothing new, the iteration throws
 * the error, because each post may be another model call.
 *
 * @example
 * ```ts
 * for await (const event of client.postUserQuery({ id: "support-42", userMessage: "Hello!" })) {
 *   if (event.case === "textDelta") {
 *     process.stdout.write(event.value.text);
 *   } else if (event.case === "completed") {
 *     console.log("", event.value.usage?.totalTokens, "tokens");
 *   }
 * }
 * ```
 */
export class Reply implements AsyncIterableIterator<Event, undefined, undefined>, AsyncDisposable {
  /**
   * The identifier of the turn, to cancel it or to post it again: the one of the request, or the generated one.
   */
  readonly requestId: string;

  readonly #post: Post;
  readonly #budget: RetryBudget;
  readonly #controller: AbortController;
  readonly #events: AsyncGenerator<Event, undefined, undefined>;
  /** Every post belongs to the trace in which the reply was created, wherever it is read. */
  readonly #context = new AsyncResource("PalaverReply");
  #first: Promise<IteratorResult<Event, undefined>> | undefined;
  #starts = 0;
  #completed: TurnCompleted | undefined;

  /** @internal */
  constructor(requestId: string, post: Post, budget: RetryBudget, controller: AbortController, end: () => void) {
    this.requestId = requestId;
    this.#post = post;
    this.#budget = budget;
    this.#controller = controller;
    this.#events = this.#run(end);
    // This starts the call. If it fails, the reader gets the error.
    this.#first = this.#next();
    this.#first.catch(() => undefined);
  }

  /** The last event, which means that the turn is stored; `undefined` until it has been read. */
  get completed(): TurnCompleted | undefined {
    return this.#completed;
  }

  /**
   * The pieces of the reply's text, as they arrive. Other events are skipped. Delivered text can't be taken
   * back: if the reply restarts, the iteration fails with `UNAVAILABLE` and an empty reason.
   */
  get text(): AsyncIterableIterator<string, undefined, undefined> {
    return this.#texts();
  }

  /** Returns the next event. The iteration is done after `completed`. Fails with a {@link PalaverError}. */
  async next(): Promise<IteratorResult<Event, undefined>> {
    const first = this.#first;
    this.#first = undefined;
    const result = await (first ?? this.#next());
    if (result.value?.case === "started") {
      this.#starts++;
    } else if (result.value?.case === "completed") {
      this.#completed = result.value.value;
    }
    return result;
  }

  #next(): Promise<IteratorResult<Event, undefined>> {
    return this.#context.runInAsyncScope(() => this.#events.next());
  }

  /** Ends the reply and its call early. A pending read finishes as done. Does nothing after the end of the reply. */
  async return(): Promise<IteratorReturnResult<undefined>> {
    this.#first = undefined;
    this.#controller.abort(RETURNED);
    await this.#events.return(undefined);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Calls {@link return}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /** Posts the turn, again if necessary, and yields each event once. Calls `end` when the reply has ended. */
  async *#run(end: () => void): AsyncGenerator<Event, undefined, undefined> {
    const { signal } = this.#controller;
    const filter = new ReplayFilter();
    try {
      for (;;) {
        try {
          for await (const { event } of this.#post({ timeoutMs: this.#budget.timeLeftMs, signal })) {
            this.#budget.reset();
            yield* filter.accept(event);
          }
          if (!filter.completed) {
            throw malformedResponse("the stream ended without `completed`");
          }
          return undefined;
        } catch (error) {
          if (filter.completed) {
            return undefined; // the turn is stored, so a break no longer matters
          }
          if (!filter.mayRepeat) {
            throw error;
          }
          await pauseAfter(error, this.#budget, signal);
          filter.beginReplay();
        }
      }
    } catch (error) {
      if (signal.reason === RETURNED) {
        return undefined;
      }
      throw error;
    } finally {
      end();
    }
  }

  /** Yields the pieces of the text. Throws at a restart. */
  async *#texts(): AsyncGenerator<string, undefined, undefined> {
    const starts = Math.max(this.#starts, 1);
    for await (const event of this) {
      if (this.#starts > starts) {
        throw replyRestarted();
      }
      if (event.case === "textDelta") {
        yield event.value.text;
      }
    }
    return undefined;
  }
}
