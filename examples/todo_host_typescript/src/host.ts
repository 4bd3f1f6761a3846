/** The skills and the service that runs them. */
import { status } from "@grpc/grpc-js";
import type { GrpcHandlers } from "@palaver-chat/client/grpc";
import type { InvokeSkillRequest, SkillHostService } from "@palaver-chat/client/v1";

import { StorageError } from "./store.js";
import type { Change, Store, Todo } from "./store.js";

const MAX_TASK = 500; // characters, as the schema of add_todo says

type Arguments = Readonly<Record<string, unknown>>;

/** A skill: its description for the model and its implementation. */
interface Skill {
  readonly name: string;
  readonly description: string;
  readonly properties: Readonly<Record<string, object>>;
  run(host: Host, request: InvokeSkillRequest, args: Arguments): string;
}

const SKILLS: readonly Skill[] = [
  {
    name: "add_todo",
    description: "Adds a task to the user's to-do list. Returns the new to-do with its id.",
    properties: {
      task: { type: "string", minLength: 1, maxLength: MAX_TASK, description: "What is to be done." },
    },
    run(host, request, { task }) {
      if (typeof task !== "string") {
        throw wrongType("task", task);
      }
      if (task.trim() === "") {
        throw new Mistake('"task" must say what is to be done');
      }
      if (Array.from(task).length > MAX_TASK) {
        throw new Mistake(`"task" must not have more than ${MAX_TASK} characters`);
      }
      return host.once(request, "add_todo", (todos) => {
        const added: Todo = { id: todos.length + 1, task, done: false };
        return { todos: [...todos, added], content: JSON.stringify(added) };
      });
    },
  },
  {
    name: "list_todos",
    description: "Lists all to-dos of the user, done or not, with their ids.",
    properties: {},
    run(host, { assistantId }) {
      return JSON.stringify({ todos: host.store.todos(assistantId) });
    },
  },
  {
    name: "complete_todo",
    description: "Marks a to-do of the user as done.",
    properties: { id: { type: "integer", minimum: 1, description: "The id of the to-do." } },
    run(host, request, { id }) {
      if (!Number.isInteger(id)) {
        throw wrongType("id", id);
      }
      return host.once(request, "complete_todo", (todos) => {
        const todo = todos.find((other) => other.id === id);
        if (!todo) {
          throw new Mistake(`there is no to-do ${String(id)}; ${host.prefix}list_todos lists all`);
        }
        const done = { ...todo, done: true };
        return { todos: todos.map((other) => (other === todo ? done : other)), content: JSON.stringify(done) };
      });
    },
  },
];

/** An error that the model can correct, so it is sent to the model. */
class Mistake extends Error {}

/** An error for the server, which only reports to the model that the skill failed. */
class Refusal extends Error {
  constructor(
    readonly code: status,
    readonly details: string,
  ) {
    super(details);
  }
}

/** Serves the skills of a store. */
export class Host {
  /** The names of the skills, with the prefix. */
  readonly names: readonly string[];

  /**
   * @param prefix A prefix of all skill names.
   * @throws Error when a prefixed name is not a valid skill name.
   */
  constructor(
    readonly store: Store,
    readonly prefix = "",
  ) {
    this.names = SKILLS.map((skill) => prefix + skill.name);
    for (const name of this.names) {
      if (!/^[A-Za-z0-9_-]{1,64}$/.test(name)) {
        throw new Error(`--prefix makes the name "${name}", which is not 1 to 64 letters, digits, _ and -`);
      }
    }
  }

  readonly handlers: GrpcHandlers<typeof SkillHostService> = {
    listSkills: (_call, respond) => {
      const skills = SKILLS.map(({ name, description, properties }) => ({
        name: this.prefix + name,
        description,
        parametersJsonSchema: JSON.stringify({
          type: "object",
          properties,
          required: Object.keys(properties),
          additionalProperties: false,
        }),
      }));
      respond(null, { skills });
    },

    invokeSkill: ({ request }, respond) => {
      try {
        respond(null, { outcome: { case: "content", value: this.#invoke(request) } });
      } catch (error) {
        if (error instanceof Mistake) {
          respond(null, { outcome: { case: "error", value: error.message } });
        } else if (error instanceof Refusal) {
          respond(error);
        } else {
          const what = error instanceof StorageError ? "the to-dos can't be stored" : "the skill failed";
          console.error(`todo_host: ${request.name}:`, error);
          respond(new Refusal(status.INTERNAL, what));
        }
      }
    },
  };

  /**
   * Changes the to-dos of the calling assistant. A repeated call gets the same result as before. Its arguments
   * are not compared, because a model may phrase them differently when it runs again. The result of another skill,
   * however, would mislead the model.
   */
  once(request: InvokeSkillRequest, skill: string, change: (todos: readonly Todo[]) => Change): string {
    const call = this.store.once(request.assistantId, request.callId, skill, change);
    if (call.skill !== skill) {
      throw new Refusal(status.FAILED_PRECONDITION, `the call "${call.id}" was a call of ${call.skill}`);
    }
    return call.content;
  }

  #invoke(request: InvokeSkillRequest): string {
    if (request.assistantId === "" || request.callId === "") {
      throw new Refusal(status.INVALID_ARGUMENT, "assistant_id and call_id must not be empty");
    }
    const skill = SKILLS.find(({ name }) => this.prefix + name === request.name);
    if (!skill) {
      throw new Refusal(status.NOT_FOUND, `there is no skill "${request.name}"`);
    }
    return skill.run(this, request, parse(request.argumentsJson, Object.keys(skill.properties)));
  }
}

/** Decodes the arguments, which must be an object with exactly these names. */
function parse(text: string, names: readonly string[]): Arguments {
  let args: unknown;
  try {
    args = JSON.parse(text);
  } catch (error) {
    throw new Mistake(`the arguments are wrong: ${(error as Error).message}`);
  }
  if (typeof args !== "object" || args === null || Array.isArray(args)) {
    throw new Mistake(`the arguments must be a JSON object, not ${kind(args)}`);
  }
  const given = args as Arguments;
  const unknown = Object.keys(given).find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new Mistake(`the arguments are wrong: unknown field "${unknown}"`);
  }
  const missing = names.find((name) => given[name] === undefined || given[name] === null);
  if (missing !== undefined) {
    throw new Mistake(`"${missing}" is missing`);
  }
  return given;
}

function wrongType(name: string, value: unknown): Mistake {
  const shown = typeof value === "number" ? `number ${value}` : kind(value);
  return new Mistake(`"${name}" has the wrong type: ${shown}`);
}

/** Returns the JSON type of a value. */
function kind(value: unknown): string {
  if (value === null) {
    return "null";
  }
  return Array.isArray(value) ? "array" : typeof value;
}
