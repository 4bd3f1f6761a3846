/** The host: its skills, errors and storage. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { TestContext } from "node:test";

import { create } from "@bufbuild/protobuf";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { Client, Server, ServerCredentials, credentials, status } from "@grpc/grpc-js";
import type { ServiceError } from "@grpc/grpc-js";
import { grpcMethod, grpcService } from "@palaver-chat/client/grpc";
import { SkillHostService } from "@palaver-chat/client/v1";
import type { InvokeSkillRequestSchema } from "@palaver-chat/client/v1";

import { Host } from "../src/host.js";
import { MAX_CALLS, Store } from "../src/store.js";
import type { Todo } from "../src/store.js";

function folder(context: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "todo-host-"));
  context.after(() => {
    rmSync(path, { recursive: true, force: true });
  });
  return path;
}

/** A host on a socket, and a client. */
class Served implements AsyncDisposable {
  readonly #server = new Server();
  readonly #client: Client;

  private constructor(
    readonly store: Store,
    server: Server,
    port: number,
  ) {
    this.#server = server;
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  static async start(file: string, prefix = ""): Promise<Served> {
    const store = new Store(file);
    const server = new Server();
    server.addService(grpcService(SkillHostService), new Host(store, prefix).handlers);
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
        if (error) {
          reject(error);
        } else {
          resolve(port);
        }
      });
    });
    return new Served(store, server, port);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    this.#server.forceShutdown();
    return Promise.resolve();
  }

  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>> {
    const { path, requestSerialize, responseDeserialize } = grpcMethod(method);
    const message = create(method.input, request);
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(path, requestSerialize, responseDeserialize, message, (error, response) => {
        if (error) {
          reject(error);
        } else {
          resolve(response as MessageShape<O>);
        }
      });
    });
  }

  /** Calls a skill and returns its result or its status. */
  async invoke(request: MessageInitShape<typeof InvokeSkillRequestSchema>): Promise<Answer> {
    try {
      const { outcome } = await this.call(SkillHostService.method.invokeSkill, { assistantId: "a", ...request });
      return outcome.case === "content" ? { content: outcome.value } : { error: outcome.value ?? "" };
    } catch (error) {
      return { status: status[(error as ServiceError).code] };
    }
  }
}

interface Answer {
  readonly content?: string;
  readonly error?: string;
  readonly status?: string;
}

interface Step {
  readonly assistantId?: string;
  readonly callId: string;
  readonly name: string;
  readonly argumentsJson: string;
  /** Before the call. */
  readonly restart?: boolean;
  readonly expected: { content?: string; error?: RegExp; status?: keyof typeof status };
}

const MILK = '{"id":1,"task":"Buy milk","done":false}';
const DONE = '{"id":1,"task":"Buy milk","done":true}';

const add = (callId: string, task: string, content: string): Step => ({
  callId,
  name: "add_todo",
  argumentsJson: JSON.stringify({ task }),
  expected: { content },
});
const lists = (...todos: string[]): Step => ({
  callId: "list",
  name: "list_todos",
  argumentsJson: "{}",
  expected: { content: `{"todos":[${todos.join(",")}]}` },
});
const wrong = (name: string, argumentsJson: string, error: RegExp): Step => ({
  callId: "wrong",
  name,
  argumentsJson,
  expected: { error },
});
const refused = (callId: string, name: string, argumentsJson: string, status: Step["expected"]["status"]): Step => ({
  callId,
  name,
  argumentsJson,
  expected: { status: status ?? "OK" },
});
const milk = add("1", "Buy milk", MILK);
const done: Step = { callId: "2", name: "complete_todo", argumentsJson: '{"id": 1}', expected: { content: DONE } };

describe("the host", () => {
  const cases: Record<string, Step[]> = {
    "adds, lists and completes": [lists(), milk, lists(MILK), done, lists(DONE)],
    "counts the identifiers": [milk, add("2", "Tom & <Jerry>", '{"id":2,"task":"Tom & <Jerry>","done":false}')],
    "keeps assistants apart, and their calls": [
      milk,
      { ...lists(), assistantId: "b" },
      { ...add("1", "Sleep", '{"id":1,"task":"Sleep","done":false}'), assistantId: "b" },
      lists(MILK),
    ],
    "keeps an assistant of any name": [
      { ...milk, assistantId: "__proto__" },
      { ...milk, assistantId: "__proto__", restart: true },
      { ...lists(MILK), assistantId: "__proto__" },
      { ...lists(), assistantId: "constructor" },
    ],
    "answers a repeated call as before": [milk, done, milk, lists(DONE)],
    "answers it after a restart": [milk, { ...milk, restart: true }, lists(MILK)],
    "answers it in other words": [milk, add("1", "Milk", MILK), lists(MILK)],
    "refuses the call of another skill": [
      milk,
      refused("1", "complete_todo", '{"id": 1}', "FAILED_PRECONDITION"),
      lists(MILK),
    ],
    "does not remember what had no effect": [
      wrong("complete_todo", '{"id": 1}', /no to-do 1; list_todos/),
      milk,
      { ...done, callId: "wrong" },
    ],
    "refuses an unknown skill": [refused("1", "add_todos", "{}", "NOT_FOUND")],
    "refuses a call without its identifier": [refused("", "list_todos", "{}", "INVALID_ARGUMENT")],
    "refuses a call without an assistant": [
      { ...refused("1", "list_todos", "{}", "INVALID_ARGUMENT"), assistantId: "" },
    ],
    "refuses what is no JSON": [wrong("add_todo", '{"task": ', /the arguments are wrong/)],
    "refuses what is empty": [wrong("list_todos", "", /the arguments are wrong/)],
    "refuses what is no object": [wrong("add_todo", '["Buy milk"]', /must be a JSON object, not array/)],
    "refuses null": [wrong("list_todos", "null", /must be a JSON object, not null/)],
    "refuses two objects": [wrong("list_todos", "{} {}", /the arguments are wrong/)],
    "refuses an unknown argument": [wrong("add_todo", '{"task": "x", "due": "now"}', /unknown field "due"/)],
    "refuses an argument where there is none": [wrong("list_todos", '{"all": true}', /unknown field "all"/)],
    "refuses a name in other letters": [wrong("add_todo", '{"Task": "x"}', /unknown field "Task"/)],
    "refuses the name of a method": [wrong("list_todos", '{"__proto__": 1}', /unknown field "__proto__"/)],
    "misses an argument": [wrong("complete_todo", "{}", /"id" is missing/)],
    "misses a null argument": [wrong("add_todo", '{"task": null}', /"task" is missing/)],
    "refuses another type": [wrong("add_todo", '{"task": 1}', /"task" has the wrong type: number/)],
    "refuses a fraction": [wrong("complete_todo", '{"id": 1.5}', /"id" has the wrong type: number 1.5/)],
    "refuses an empty task": [wrong("add_todo", '{"task": " "}', /must say/)],
    "takes a task of 500 characters": [
      add("1", "👍".repeat(500), `{"id":1,"task":"${"👍".repeat(500)}","done":false}`),
    ],
    "refuses a long task": [wrong("add_todo", `{"task": "${"👍".repeat(501)}"}`, /500/)],
    "refuses to-do 0": [milk, wrong("complete_todo", '{"id": 0}', /no to-do 0/)],
    "refuses a to-do that is not there yet": [milk, wrong("complete_todo", '{"id": 2}', /no to-do 2/)],
  };
  for (const [name, steps] of Object.entries(cases)) {
    test(name, async (context) => {
      const file = join(folder(context), "todos.json");
      let host = await Served.start(file);
      for (const { restart, expected, ...request } of steps) {
        if (restart) {
          await host[Symbol.asyncDispose]();
          host = await Served.start(file);
        }
        const answer = await host.invoke(request);
        assert.deepEqual([answer.content, answer.status], [expected.content, expected.status], JSON.stringify(answer));
        if (expected.error) {
          assert.match(answer.error ?? "", expected.error);
        } else {
          assert.equal(answer.error, undefined);
        }
      }
      await host[Symbol.asyncDispose]();
    });
  }
});

test("the prefix is part of all skill names", async (context) => {
  await using host = await Served.start(join(folder(context), "todos.json"), "ts_");
  const { skills } = await host.call(SkillHostService.method.listSkills, {});
  assert.deepEqual(
    skills.map(({ name }) => name),
    ["ts_add_todo", "ts_list_todos", "ts_complete_todo"],
  );
  for (const { name, description, parametersJsonSchema } of skills) {
    assert.notEqual(description, "");
    assert.equal((JSON.parse(parametersJsonSchema) as { type: string }).type, "object");
    const answer = await host.invoke({ callId: "1", name: name.slice(3), argumentsJson: "{}" });
    assert.equal(answer.status, "NOT_FOUND");
  }
  const answer = await host.invoke({ callId: "1", name: "ts_complete_todo", argumentsJson: '{"id": 1}' });
  assert.match(answer.error ?? "", /ts_list_todos lists all/);
});

test("a prefix that makes invalid names is refused", (context) => {
  const store = new Store(join(folder(context), "todos.json"));
  // complete_todo has 13 letters.
  for (const prefix of ["", "ts_", "ts-2", "x".repeat(51)]) {
    assert.ok(new Host(store, prefix));
  }
  for (const prefix of ["ts.", "é", "x".repeat(52)]) {
    assert.throws(() => new Host(store, prefix), /--prefix makes the name/);
  }
});

test("a change that can't be stored has no effect", async (context) => {
  const place = join(folder(context), "folder");
  mkdirSync(place);
  await using host = await Served.start(join(place, "todos.json"));
  const complaints = context.mock.method(console, "error", () => undefined).mock;
  const invoke = async (callId: string, name: string, argumentsJson: string, ...todos: Todo[]): Promise<Answer> => {
    const answer = await host.invoke({ callId, name, argumentsJson });
    assert.deepEqual(host.store.todos("a"), todos);
    return answer;
  };
  const [x, y] = [
    { id: 1, task: "x", done: false },
    { id: 2, task: "y", done: false },
  ];
  await invoke("1", "add_todo", '{"task": "x"}', x);
  rmSync(place, { recursive: true });
  assert.equal((await invoke("2", "add_todo", '{"task": "y"}', x)).status, "INTERNAL");
  assert.equal((await invoke("3", "complete_todo", '{"id": 1}', x)).status, "INTERNAL");
  assert.equal(complaints.callCount(), 2);
  mkdirSync(place);
  await invoke("3", "complete_todo", '{"id": 1}', { ...x, done: true });
  await invoke("2", "add_todo", '{"task": "y"}', { ...x, done: true }, y);
});

test("concurrent calls take effect once each", async (context) => {
  const file = join(folder(context), "todos.json");
  await using host = await Served.start(file);
  await Promise.all(
    Array.from({ length: 40 }, (_, number) =>
      host.invoke({ callId: String(number >> 1), name: "add_todo", argumentsJson: '{"task": "x"}' }),
    ),
  );
  assert.deepEqual(
    new Store(file).todos("a").map(({ id }) => id),
    Array.from({ length: 20 }, (_, number) => number + 1),
  );
});

test("the number of remembered calls is limited", (context) => {
  const file = join(folder(context), "todos.json");
  const calls = Array.from({ length: MAX_CALLS }, (_, number) => ({ id: String(number), skill: "x", content: "" }));
  writeFileSync(file, JSON.stringify({ a: { todos: [], calls } }));
  new Store(file).once("a", "new", "x", (todos) => ({ todos, content: "" }));
  const remembered = new Store(file).calls("a");
  assert.equal(remembered.length, MAX_CALLS);
  assert.deepEqual([remembered[0]?.id, remembered.at(-1)?.id], ["1", "new"]);
});

test("a file with other content is refused and not modified", (context) => {
  const place = folder(context);
  const file = join(place, "todos.json");
  for (const content of ['{"a"', "[]", "null", '{"a": {"todos": 1, "calls": []}}', ""]) {
    writeFileSync(file, content);
    assert.throws(() => new Store(file), /is not a file of to-dos/);
    assert.equal(readFileSync(file, "utf8"), content);
  }
  assert.throws(() => new Store(join(place, "nowhere", "todos.json")), /ENOENT/);
});
