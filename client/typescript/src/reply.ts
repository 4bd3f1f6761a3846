/** A reply as it arrives. */
import type { Attempts } from "./attempts.js";
import type { Limits } from "./calls.js";
import { begunAnew, malformed } from "./errors.js";
import { pauseAfter } from "./pause.js";
import { Progress } from "./progress.js";
import type { Event } from "./progress.js";
import type { PostUserQueryResponse, TurnCompleted } from "./v1.js";

/** Why a call ends whose reader calls `return`. */
const LEFT = Symbol("left");

/** Posts the turn, or posts it again. */
export type Post = (limits: Limits) => AsyncIterable<PostUserQueryResponse>;

/**
 * A reply as it arrives: an iteration over events, or over the pieces of the text alone by {@link text}. It can be
 * iterated over once.
 *
 * The call has begun when the client returns the reply. It ends with the iteration; `break`, an exception in the loop,
 * {@link return} and the signal of the call end it early. Then nothing of the turn is stored, unless it is completed or was
 * posted with `OnDisconnect.CONTINUE`. A reply that is neither read to its end nor left holds its call.
 *
 * When the connection breaks, the turn is posted again with the same `requestId`, and the iteration goes on where it was.
 * Only where the turn had to run anew, and the model now writes something else, another `started` says that the reply
 * begins again: what came before it is void. With `OnDisconnect.CONTINUE` that takes the death of a server.
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
  /** The identifier of the turn, for `cancelTurn` and to post it again: the caller's, or the one made for it. */
  readonly requestId: string;

  readonly #post: Post;
  readonly #attempts: Attempts;
  readonly #leaving: AbortController;
  readonly #events: AsyncGenerator<Event, undefined, undefined>;
  #first: Promise<IteratorResult<Event, undefined>> | undefined;
  #beginnings = 0;
  #completed: TurnCompleted | undefined;

  /** @internal */
  constructor(requestId: string, post: Post, attempts: Attempts, leaving: AbortController, ended: () => void) {
    this.requestId = requestId;
    this.#post = post;
    this.#attempts = attempts;
    this.#leaving = leaving;
    this.#events = this.#run(ended);
    // That begins the call. Its error waits for the reader.
    this.#first = this.#events.next();
    this.#first.catch(() => undefined);
  }

  /** The last event, which says that the turn is stored; `undefined` until it was read. */
  get completed(): TurnCompleted | undefined {
    return this.#completed;
  }

  /**
   * The pieces of the reply's text, as they arrive. Other events are passed over. A piece can't be taken back: where the
   * reply begins anew, the iteration fails with `UNAVAILABLE`.
   */
  get text(): AsyncIterableIterator<string, undefined, undefined> {
    return this.#texts();
  }

  /** Returns the next event. After `completed` the iteration is done. Fails with a {@link PalaverError}. */
  async next(): Promise<IteratorResult<Event, undefined>> {
    const first = this.#first;
    this.#first = undefined;
    const result = await (first ?? this.#events.next());
    if (result.value?.case === "started") {
      this.#beginnings++;
    } else if (result.value?.case === "completed") {
      this.#completed = result.value.value;
    }
    return result;
  }

  /** Leaves the reply, and ends its call. A read that waits is then done. After the end of the reply it does nothing. */
  async return(): Promise<IteratorReturnResult<undefined>> {
    this.#first = undefined;
    this.#leaving.abort(LEFT);
    await this.#events.return(undefined);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Does the same as {@link return}, for `await using`. */
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
            this.#attempts.succeeded();
            yield* progress.accept(event);
          }
          if (!progress.completed) {
            throw malformed("the stream ended without `completed`");
          }
          return undefined;
        } catch (error) {
          if (progress.completed) {
            return undefined; // what breaks now does not matter: the turn is stored
          }
          await pauseAfter(error, this.#attempts, signal);
          progress.postAgain();
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
    const beginnings = Math.max(this.#beginnings, 1);
    for await (const event of this) {
      if (this.#beginnings > beginnings) {
        throw begunAnew();
      }
      if (event.case === "textDelta") {
        yield event.value.text;
      }
    }
    return undefined;
  }
}
