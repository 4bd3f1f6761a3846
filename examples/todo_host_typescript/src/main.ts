#!/usr/bin/env node
/**
 * A skill host for Palaver: a to-do list for each assistant, kept in a JSON file.
 *
 * It has no authentication, and believes the assistant_id that it is told: let nobody but the server reach it.
 */
import { parseArgs } from "node:util";

import { Server, ServerCredentials } from "@grpc/grpc-js";
import { grpcService } from "@palaver-chat/client/grpc";
import { SkillHostService } from "@palaver-chat/client/v1";
import { HealthImplementation } from "grpc-health-check";

import { Host } from "./host.js";
import { Store } from "./store.js";

const USAGE = `usage: todo_host [--listen ADDRESS] [--file FILE] [--prefix NAMES]
  --listen  the address to serve at; with port 0, a free one (default: 127.0.0.1:50061)
  --file    the file that keeps the to-dos; one process may use it at a time (default: todos.json)
  --prefix  what the names of the skills begin with, to differ from those of other hosts`;

/** How many milliseconds a stop waits for calls. Those of skills take less, but who watches the health never ends. */
const GRACE_MS = 5_000;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      listen: { type: "string", default: "127.0.0.1:50061" },
      file: { type: "string", default: "todos.json" },
      prefix: { type: "string", default: "" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const host = new Host(new Store(values.file), values.prefix);
  const server = new Server();
  const health = new HealthImplementation({ "": "SERVING", [SkillHostService.typeName]: "SERVING" });
  server.addService(grpcService(SkillHostService), host.handlers);
  health.addToServer(server);

  const stop = (): void => {
    process.off("SIGTERM", stop).off("SIGINT", stop); // a second signal ends the process at once
    health.setStatus("", "NOT_SERVING");
    health.setStatus(SkillHostService.typeName, "NOT_SERVING");
    const impatience = setTimeout(() => {
      server.forceShutdown();
    }, GRACE_MS);
    server.tryShutdown(() => {
      clearTimeout(impatience);
    });
  };
  const port = await bind(server, values.listen);
  process.on("SIGTERM", stop).on("SIGINT", stop);
  console.log(`todo_host listening on ${values.listen.replace(/:\d+$/, "")}:${port}`);
}

function bind(server: Server, address: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
      if (error) {
        reject(error);
      } else {
        resolve(port);
      }
    });
  });
}

try {
  await main();
} catch (error) {
  console.error(`todo_host: ${(error as Error).message}`);
  process.exitCode = 1;
}
