/** The client. */
import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";

import { clone, create } from "@bufbuild/protobuf";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { ChannelOptions } from "@grpc/grpc-js";

import { Attempts } from "./attempts.js";
import { serverStream, unary } from "./calls.js";
import { Connection, DEFAULT_TARGET } from "./connection.js";
import { malformed } from "./errors.js";
import { pauseAfter } from "./pause.js";
import { Reply } from "./reply.js";
import {
  AssistantService,
  CancelTurnRequestSchema,
  CreateAssistantRequestSchema,
  DeleteAssistantRequestSchema,
  GetAssistantRequestSchema,
  ListMessagesRequestSchema,
  PostUserQueryRequestSchema,
} from "./v1.js";
import type { Assistant, CreateAssistantResponse, Message, PostUserQueryRequest, TurnCompleted } from "./v1.js";

const DEFAULT_RECONNECT_TIMEOUT_MS = 10_000;

const RPC = AssistantService.method;

/** How a client reaches its server. */
export interface ClientOptions {
  /**
   * Whether to use TLS. The default is `false`. With `true`, the certificate authorities of Node.js are trusted, which
   * are those of the system if it runs with `--use-system-ca`. The path or the bytes of a PEM file make the client
   * trust the authorities in it instead.
   */
  readonly tls?: boolean | string | URL | Uint8Array | undefined;

  /**
   * A bearer token, sent as `authorization: Bearer <token>` with every call. Without TLS, the target must be this
   * machine (`localhost`, a loopback address or a Unix socket).
   */
  readonly token?: string | undefined;

  /** The timeout of calls that have none of their own, in milliseconds. The default is `Infinity`. */
  readonly timeoutMs?: number | undefined;

  /**
   * How many milliseconds a turn tries to reconnect. When the connection breaks or the server stops, the turn is posted
   * again until then, and the caller gets each event of the reply once. The default is 10,000; with 0, a turn is never
   * posted again.
   */
  readonly reconnectTimeoutMs?: number | undefined;

  /** Channel options of grpc-js. They override those that the client sets. */
  readonly channelOptions?: ChannelOptions | undefined;
}

/** The options of a call. */
export interface CallOptions {
  /** Cancels the call, which then fails with `CANCELLED`; its `cause` is the reason of the signal. */
  readonly signal?: AbortSignal | undefined;

  /**
   * The timeout in milliseconds, after which the call fails with `DEADLINE_EXCEEDED`. It covers a whole reply up to the
   * last event, however often the turn is posted. The default is the client's timeout; `Infinity` means none.
   */
  readonly timeoutMs?: number | undefined;
}

/**
 * A client of a Palaver server. One client is enough for a whole program: all calls share one connection, which is
 * opened by the first call and reopened when it breaks.
 *
 * Requests are the messages of the contract, where every field is documented. Fields that are left out are unset. Calls
 * fail with a {@link PalaverError}.
 *
 * @example
 * ```ts
 * const client = new PalaverClient("127.0.0.1:50051");
 * await client.createAssistant({ id: "support-42", ifExists: IfExists.KEEP });
 * for await (const text of client.postUserQuery({ id: "support-42", userMessage: "Hello!" }).text) {
 *   process.stdout.write(text);
 * }
 * client.close();
 * ```
 */
export class PalaverClient implements Disposable {
  readonly #connection: Connection;
  readonly #timeoutMs: number;
  readonly #reconnectTimeoutMs: number;
  readonly #open = new Set<AbortController>();
  #closed = false;

  /**
   * @param target - The server, in the syntax of grpc-js for names: `host:port`, `dns:///host:port` or `unix:path`.
   * @throws TypeError when a token would leave this machine without TLS, or has other than visible ASCII characters.
   * @throws RangeError when a timeout is negative or not a number.
   * @throws Error when the file of certificate authorities can't be read.
   */
  constructor(target: string = DEFAULT_TARGET, options: ClientOptions = {}) {
    this.#timeoutMs = milliseconds(options.timeoutMs ?? Infinity);
    this.#reconnectTimeoutMs = milliseconds(options.reconnectTimeoutMs ?? DEFAULT_RECONNECT_TIMEOUT_MS);
    this.#connection = new Connection(target, options);
  }

  /** Closes the connection. Open calls fail with `CANCELLED`. Closing again does nothing. */
  close(): void {
    this.#closed = true;
    for (const leaving of this.#open) {
      leaving.abort(closed());
    }
    this.#connection.close();
  }

  /** Calls {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Creates an assistant, whose conversation then consists of its instructions alone. `created` is false if it existed
   * and was kept.
   *
   * Fails with `ASSISTANT_EXISTS` if the assistant exists, unless `ifExists` allows it.
   */
  async createAssistant(
    request: MessageInitShape<typeof CreateAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<CreateAssistantResponse & { assistant: Assistant }> {
    const response = await this.#call(RPC.createAssistant, copy(CreateAssistantRequestSchema, request), options);
    return { ...response, assistant: present(response.assistant, "assistant") };
  }

  /** Returns the current state of an assistant. Fails with `ASSISTANT_NOT_FOUND` if there is none. */
  async getAssistant(
    request: MessageInitShape<typeof GetAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<Assistant> {
    const response = await this.#call(RPC.getAssistant, copy(GetAssistantRequestSchema, request), options);
    return present(response.assistant, "assistant");
  }

  /**
   * Iterates over the messages of an assistant, starting at `pageToken` if it is set. Each page is fetched when the
   * iteration reaches it, with its own timeout. Errors such as `ASSISTANT_NOT_FOUND` are thrown by the iteration.
   */
  listMessages(
    request: MessageInitShape<typeof ListMessagesRequestSchema>,
    options?: CallOptions,
  ): AsyncGenerator<Message, void, undefined> {
    return this.#pages(copy(ListMessagesRequestSchema, request), options);
  }

  /** Deletes an assistant and all of its messages permanently. Fails with `ASSISTANT_NOT_FOUND` if there is none. */
  async deleteAssistant(
    request: MessageInitShape<typeof DeleteAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(RPC.deleteAssistant, copy(DeleteAssistantRequestSchema, request), options);
  }

  /**
   * Posts a user message and streams the reply.
   *
   * The turn is stored when the reply completes, as a whole or not at all. The call starts at once. Its errors are
   * thrown by the iteration over the reply.
   *
   * @throws RangeError when `timeoutMs` is negative or not a number.
   */
  postUserQuery(request: MessageInitShape<typeof PostUserQueryRequestSchema>, options: CallOptions = {}): Reply {
    const message = turn(request);
    const attempts = this.#attempts(options);
    const [leaving, ended] = this.#begin(options.signal);
    return new Reply(
      message.requestId,
      (limits) => serverStream(this.#connection, RPC.postUserQuery, message, limits),
      attempts,
      leaving,
      ended,
    );
  }

  /**
   * Posts a user message and returns the whole reply when the turn is stored. The turn is posted again in the same way
   * as by {@link postUserQuery}. If the call fails, nothing of the turn is stored.
   */
  async postUserQueryUnary(
    request: MessageInitShape<typeof PostUserQueryRequestSchema>,
    options: CallOptions = {},
  ): Promise<TurnCompleted> {
    const message = turn(request);
    const attempts = this.#attempts(options);
    const [{ signal }, ended] = this.#begin(options.signal);
    try {
      for (;;) {
        try {
          const limits = { timeoutMs: attempts.timeLeftMs, signal };
          const response = await unary(this.#connection, RPC.postUserQueryUnary, message, limits);
          return present(response.completed, "completed");
        } catch (error) {
          await pauseAfter(error, attempts, signal);
        }
      }
    } finally {
      ended();
    }
  }

  /**
   * Cancels a running turn of any caller, regardless of its `onDisconnect`. Nothing of the turn is stored. Fails with
   * `TURN_NOT_FOUND` if no such turn is running.
   */
  async cancelTurn(request: MessageInitShape<typeof CancelTurnRequestSchema>, options?: CallOptions): Promise<void> {
    await this.#call(RPC.cancelTurn, copy(CancelTurnRequestSchema, request), options);
  }

  async *#pages(
    request: MessageShape<typeof ListMessagesRequestSchema>,
    options: CallOptions | undefined,
  ): AsyncGenerator<Message, void, undefined> {
    do {
      const response = await this.#call(RPC.listMessages, request, options);
      yield* response.messages;
      request.pageToken = response.nextPageToken;
    } while (request.pageToken !== "");
  }

  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const timeoutMs = this.#timeout(options);
    const [{ signal }, ended] = this.#begin(options.signal);
    try {
      return await unary(this.#connection, method, request, { timeoutMs, signal });
    } finally {
      ended();
    }
  }

  #attempts(options: CallOptions): Attempts {
    return new Attempts(this.#timeout(options), this.#reconnectTimeoutMs);
  }

  #timeout({ timeoutMs = this.#timeoutMs }: CallOptions): number {
    return milliseconds(timeoutMs);
  }

  /**
   * Returns the controller that cancels a call, also for the caller's signal and `close`, and a function to call at its
   * end.
   */
  #begin(signal: AbortSignal | undefined): [AbortController, () => void] {
    const leaving = new AbortController();
    const leave = (): void => {
      leaving.abort(signal?.reason);
    };
    if (this.#closed) {
      leaving.abort(closed());
    } else if (signal?.aborted) {
      leave();
    }
    if (signal) {
      setMaxListeners(0, signal); // many calls may share it, and each removes its listener
      signal.addEventListener("abort", leave);
    }
    this.#open.add(leaving);
    const ended = (): void => {
      signal?.removeEventListener("abort", leave);
      this.#open.delete(leaving);
    };
    return [leaving, ended];
  }
}

/** Returns a copy, which the caller can't change while it is being sent. */
function copy<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema>): MessageShape<Schema> {
  return clone(schema, create(schema, init));
}

/** Returns the request of a turn, with a `requestId` so that posting it again is safe. */
function turn(init: MessageInitShape<typeof PostUserQueryRequestSchema>): PostUserQueryRequest {
  const request = copy(PostUserQueryRequestSchema, init);
  request.requestId ||= randomBytes(16).toString("hex");
  return request;
}

function present<Value>(value: Value | undefined, name: string): Value {
  if (value === undefined) {
    throw malformed(`\`${name}\` is missing`);
  }
  return value;
}

function milliseconds(value: number): number {
  if (!(value >= 0)) {
    throw new RangeError(`a timeout must be at least 0 milliseconds, not ${value}`);
  }
  return value;
}

function closed(): Error {
  return new Error("the client is closed");
}
