/** A reply as it arrives. */
import type { Attempts } from "./attempts.js";
import type { Limits } from "./calls.js";
import { restarted, malformed } from "./errors.js";
import { pauseAfter } from "./pause.js";
import { Progress } from "./progress.js";
import type { Event } from "./progress.js";
import type { PostUserQueryResponse, TurnCompleted } from "./v1.js";

/** The abort reason of a reply whose reader called `return`. */
const LEFT = Symbol("left");

/** Posts the turn. */
export type Post = (limits: Limits) => AsyncIterable<PostUserQueryResponse>;

/**
 * A reply as it arrives: an async iterable of events, or of its text alone with {@link text}. It can be iterated only
 * once.
 *
 * The call starts before the client returns the reply and ends with the iteration. `break`, an exception in the loop,
 * {@link return} and the signal of the call end it early. Nothing of the turn is stored then, unless the turn was
 * completed or was posted with `OnDisconnect.CONTINUE`. A reply that is neither read to its end nor ended early keeps
 * its call open.
 *
 * When the connection breaks, the turn is posted again with the same `requestId`, and the iteration resumes where it
 * was. If the turn had to run again and the model wrote something else, the reply restarts: a second `started` voids
 * the events before it. With `OnDisconnect.CONTINUE`, that happens only if the server itself died.
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
   * The identifier of the turn, which is the caller's or a random one. It can be used to cancel the turn or post it
   * again.
   */
  readonly requestId: string;

  readonly #post: Post;
  readonly #attempts: Attempts;
  readonly #leaving: AbortController;
  readonly #events: AsyncGenerator<Event, undefined, undefined>;
  #first: Promise<IteratorResult<Event, undefined>> | undefined;
  #starts = 0;
  #completed: TurnCompleted | undefined;

  /** @internal */
  constructor(requestId: string, post: Post, attempts: Attempts, leaving: AbortController, ended: () => void) {
    this.requestId = requestId;
    this.#post = post;
    this.#attempts = attempts;
    this.#leaving = leaving;
    this.#events = this.#run(ended);
    // This starts the call. Its error is kept for the reader.
    this.#first = this.#events.next();
    this.#first.catch(() => undefined);
  }

  /** The last event, which means that the turn is stored; `undefined` until it has been read. */
  get completed(): TurnCompleted | undefined {
    return this.#completed;
  }

  /**
   * The pieces of the reply's text, as they arrive. Other events are skipped. Text that was yielded can't be taken
   * back, so if the reply restarts, the iteration fails with `UNAVAILABLE`.
   */
  get text(): AsyncIterableIterator<string, undefined, undefined> {
    return this.#texts();
  }

  /** Returns the next event. The iteration is done after `completed`. Fails with a {@link PalaverError}. */
  async next(): Promise<IteratorResult<Event, undefined>> {
    const first = this.#first;
    this.#first = undefined;
    const result = await (first ?? this.#events.next());
    if (result.value?.case === "started") {
      this.#starts++;
    } else if (result.value?.case === "completed") {
      this.#completed = result.value.value;
    }
    return result;
  }

  /** Ends the reply and its call early. A pending read finishes as done. Does nothing after the end of the reply. */
  async return(): Promise<IteratorReturnResult<undefined>> {
    this.#first = undefined;
    this.#leaving.abort(LEFT);
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

  async *#run(ended: () => void): AsyncGenerator<Event, undefined, undefined> {
    const { signal } = this.#leaving;
    const progress = new Progress();
    try {
      for (;;) {
        try {
          for await (const { event } of this.#post({ timeoutMs: this.#attempts.timeLeftMs, signal })) {
            this.#attempts.reset();
            yield* progress.accept(event);
          }
          if (!progress.completed) {
            throw malformed("the stream ended without `completed`");
          }
          return undefined;
        } catch (error) {
          if (progress.completed) {
            return undefined; // the turn is stored, so a break no longer matters
          }
          await pauseAfter(error, this.#attempts, signal);
          progress.beginReplay();
        }
      }
    } catch (error) {
      if (signal.reason === LEFT) {
        return undefined;
      }
      throw error;
    } finally {
      ended();
    }
  }

  async *#texts(): AsyncGenerator<string, undefined, undefined> {
    const starts = Math.max(this.#starts, 1);
    for await (const event of this) {
      if (this.#starts > starts) {
        throw restarted();
      }
      if (event.case === "textDelta") {
        yield event.value.text;
      }
    }
    return undefined;
  }
}
