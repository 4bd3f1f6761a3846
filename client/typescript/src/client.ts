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
   * What secures the connection. `false`, the default: nothing. `true`: TLS with the certificate authorities of Node.js,
   * which are those of the system where it runs with `--use-system-ca`. Otherwise TLS with other authorities, as PEM: the
   * path of a file, or its bytes.
   */
  readonly tls?: boolean | string | URL | Uint8Array | undefined;

  /**
   * A bearer token, sent as `authorization: Bearer <token>` with every call. Without TLS it is sent to this machine alone
   * (`localhost`, loopback addresses, Unix sockets).
   */
  readonly token?: string | undefined;

  /** The deadline of every call that has none of its own, in milliseconds. The default is `Infinity`: none. */
  readonly timeoutMs?: number | undefined;

  /**
   * How many milliseconds a turn may go without its connection. When that breaks, or the server stops, the turn is posted
   * again, and its caller gets each piece of the reply once. The default is 10,000; 0: the caller gets the error.
   */
  readonly reconnectTimeoutMs?: number | undefined;

  /** Further options of grpc-js for the channel; they win over those that the client sets. */
  readonly channelOptions?: ChannelOptions | undefined;
}

/** What can be said of a call besides its request. */
export interface CallOptions {
  /** Ends the call, which then fails with `CANCELLED`, with the reason of the signal as its `cause`. */
  readonly signal?: AbortSignal | undefined;

  /**
   * The deadline in milliseconds, after which the call fails with `DEADLINE_EXCEEDED`. That of a reply covers all of it, to
   * the last event and however often it is posted. The default is the client's; `Infinity`: none.
   */
  readonly timeoutMs?: number | undefined;
}

/**
 * Talks to a Palaver server. One is enough for a whole program: all calls share one connection, which is opened with the
 * first one and opened anew when it breaks.
 *
 * Requests are the messages of the contract, of which only the fields that matter need to be given; the documentation of
 * each field is there. Calls fail with a {@link PalaverError}.
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
   * @param target - The server, as "host:port" or any other name that grpc-js knows (`dns:///host:port`, `unix:path`).
   * @throws TypeError when a token without TLS would leave this machine, or is not made of visible ASCII characters.
   * @throws RangeError when a time is negative or no number.
   * @throws Error when the file of certificate authorities can't be read.
   */
  constructor(target: string = DEFAULT_TARGET, options: ClientOptions = {}) {
    this.#timeoutMs = milliseconds(options.timeoutMs ?? Infinity);
    this.#reconnectTimeoutMs = milliseconds(options.reconnectTimeoutMs ?? DEFAULT_RECONNECT_TIMEOUT_MS);
    this.#connection = new Connection(target, options);
  }

  /** Ends all calls that are still open, with `CANCELLED`, and closes the connection. Closing again does nothing. */
  close(): void {
    this.#closed = true;
    for (const leaving of this.#open) {
      leaving.abort(closed());
    }
    this.#connection.close();
  }

  /** Does the same as {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Creates an assistant, whose conversation then consists of its instructions alone, and tells whether it is new.
   *
   * Fails with `ASSISTANT_EXISTS` when it exists, unless `ifExists` says what to do then.
   */
  async createAssistant(
    request: MessageInitShape<typeof CreateAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<CreateAssistantResponse & { assistant: Assistant }> {
    const response = await this.#call(RPC.createAssistant, copy(CreateAssistantRequestSchema, request), options);
    return { ...response, assistant: present(response.assistant, "assistant") };
  }

  /** Returns the present state of an assistant. Fails with `ASSISTANT_NOT_FOUND` when there is none. */
  async getAssistant(
    request: MessageInitShape<typeof GetAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<Assistant> {
    const response = await this.#call(RPC.getAssistant, copy(GetAssistantRequestSchema, request), options);
    return present(response.assistant, "assistant");
  }

  /**
   * Iterates over the messages of an assistant, from `pageToken` on. Each page is fetched when the iteration gets there, and
   * the deadline is that of a page. Fails with `ASSISTANT_NOT_FOUND`, as with every error, in the iteration.
   */
  listMessages(
    request: MessageInitShape<typeof ListMessagesRequestSchema>,
    options?: CallOptions,
  ): AsyncGenerator<Message, void, undefined> {
    return this.#pages(copy(ListMessagesRequestSchema, request), options);
  }

  /** Deletes an assistant and all of its messages, for good. Fails with `ASSISTANT_NOT_FOUND` when there is none. */
  async deleteAssistant(
    request: MessageInitShape<typeof DeleteAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(RPC.deleteAssistant, copy(DeleteAssistantRequestSchema, request), options);
  }

  /**
   * Posts a user message and streams the reply: a turn.
   *
   * The turn is stored whole, when the reply completes, or not at all. The call begins at once; its errors come in the
   * iteration over the reply.
   *
   * @throws RangeError when `timeoutMs` is negative or no number.
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
   * Posts a user message and returns when the turn is stored, with the whole reply. It is posted again as
   * {@link postUserQuery} is. When it fails, nothing of the turn is stored.
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
   * Ends a running turn of any caller, whatever its `onDisconnect` says. Nothing of the turn is stored. Fails with
   * `TURN_NOT_FOUND` when no such turn is running.
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

  /** Returns what ends a call early, for the caller's signal and for `close` as well, and what to run when it is over. */
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
      setMaxListeners(0, signal); // many calls may share it, and each takes its listener away again
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

/** A message of one's own, which the caller can't change while it is being sent. */
function copy<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema>): MessageShape<Schema> {
  return clone(schema, create(schema, init));
}

/** The request of a turn, with a name that makes it safe to post it again. */
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
    throw new RangeError(`a time must be 0 milliseconds or more, not ${value}`);
  }
  return value;
}

function closed(): Error {
  return new Error("the client is closed");
}
