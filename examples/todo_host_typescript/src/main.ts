#!/usr/bin/env node
/**
 * A skill host for Palaver. It keeps a to-do list for each assistant in a JSON file.
 *
 * It has no authentication and trusts the assistant_id of each request, so only the Palaver server should be able to
 * reach it.
 */
import { parseArgs } from "node:util";

import { Server, ServerCredentials } from "@grpc/grpc-js";
import { grpcService } from "@palaver-chat/client/grpc";
import { SkillHostService } from "@palaver-chat/client/v1";
import { HealthImplementation } from "grpc-health-check";

import { Host } from "./host.js";
import { Store } from "./store.js";

const USAGE = `usage: todo_host [--listen ADDRESS] [--file FILE] [--prefix PREFIX]
  --listen  the address to listen on; port 0 picks a free port (default: 127.0.0.1:50061)
  --file    the file with the to-dos; only one process may use it at a time (default: todos.json)
  --prefix  a prefix for the skill names, to distinguish them from those of other hosts`;

/** How long a graceful stop waits for calls. Skills take less time, but health watches never end on their own. */
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
    process.off("SIGTERM", stop).off("SIGINT", stop); // a second signal ends the process immediately
    health.setStatus("", "NOT_SERVING");
    health.setStatus(SkillHostService.typeName, "NOT_SERVING");
    const timer = setTimeout(() => {
      server.forceShutdown();
    }, GRACE_MS);
    server.tryShutdown(() => {
      clearTimeout(timer);
    });
  };
  const port = await bind(server, values.listen);
  process.on("SIGTERM", stop).on("SIGINT", stop);
  const address = `${values.listen.replace(/:\d+$/, "")}:${port}`;
  console.log(`todo_host listening on ${address} with ${host.names.join(", ")}`);
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
