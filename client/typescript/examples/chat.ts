/**
 * A terminal chat: `chat [TARGET] [ASSISTANT_ID]`. Each line of the input is posted to the assistant, and the reply is
 * printed as it streams. Ctrl-C cancels a reply, or ends the chat at the prompt.
 */
import { createInterface } from "node:readline";

import { IfExists, OnDisconnect, PalaverClient, PalaverError } from "@palaver-chat/client";
import type { Reply } from "@palaver-chat/client";

import { printable } from "./printable.js";

const [target = "127.0.0.1:50051", id = "chat"] = process.argv.slice(2);

const client = new PalaverClient(target);
const input = createInterface({ input: process.stdin, output: process.stdout, terminal: process.stdin.isTTY });
const lines = input[Symbol.asyncIterator](); // start now, so that no line is missed
let current: Reply | undefined;

async function answer(userMessage: string): Promise<void> {
  // The turn continues when the connection breaks, and each piece of text arrives once.
  const request = { id, userMessage, onDisconnect: OnDisconnect.CONTINUE };
  const reply = (current = client.postUserQuery(request));
  let started = false;
  try {
    for await (const event of reply) {
      switch (event.case) {
        case "started":
          if (started) {
            process.stdout.write("\n[the connection broke, and the reply restarts]\n");
          }
          started = true;
          break;
        case "textDelta":
          process.stdout.write(printable(event.value.text));
          break;
        case "skillCall":
          process.stderr.write(printable(`[${event.value.name} ${event.value.argumentsJson}]\n`));
          break;
        case "skillResult":
          process.stderr.write(
            printable(`[${event.value.outcome.case ?? "nothing"}: ${event.value.outcome.value ?? ""}]\n`),
          );
          break;
        case "progress":
          break; // there is nothing new to print
        case "completed":
          process.stdout.write("\n");
      }
    }
  } catch (error) {
    process.stdout.write(started ? "\n" : "");
    printError(error);
  } finally {
    current = undefined;
  }
}

function printError(error: unknown): void {
  if (!(error instanceof PalaverError)) {
    throw error;
  }
  const codes = [error.status, error.reason].filter(Boolean).join(", ");
  process.stderr.write(printable(`error: ${error.message} (${codes})\n`));
}

function interrupt(): void {
  if (current) {
    // Leaving the loop is not enough, because the turn continues without its caller.
    client.cancelTurn({ id, requestId: current.requestId }).catch(printError);
  } else {
    input.close();
  }
}

process.on("SIGINT", interrupt); // from another process
input.on("SIGINT", interrupt); // from the keyboard

try {
  await client.createAssistant({ id, ifExists: IfExists.KEEP });
} catch (error) {
  printError(error);
}
input.setPrompt(process.stdin.isTTY ? "> " : "");
input.prompt();
for await (const line of lines) {
  if (line.trim() !== "") {
    await answer(line);
  }
  input.prompt();
}
if (process.stdin.isTTY) {
  process.stdout.write("\n");
}
client.close();
