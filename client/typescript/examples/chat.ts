/**
 * A small terminal chat: `chat [TARGET] [ASSISTANT_ID]`. Each line of the input is posted to the assistant, and the reply
 * printed as it streams. Ctrl-C ends a reply, and at the prompt the chat.
 */
import { createInterface } from "node:readline";

import { IfExists, OnDisconnect, PalaverClient, PalaverError } from "@palaver-chat/client";
import type { Reply } from "@palaver-chat/client";

const [target = "127.0.0.1:50051", id = "chat"] = process.argv.slice(2);

const client = new PalaverClient(target);
const input = createInterface({ input: process.stdin, output: process.stdout, terminal: process.stdin.isTTY });
const lines = input[Symbol.asyncIterator](); // from now on, so that no line is missed
let current: Reply | undefined;

async function answer(userMessage: string): Promise<void> {
  // Whatever becomes of the connection, the turn goes on, and each piece comes once.
  const request = { id, userMessage, onDisconnect: OnDisconnect.CONTINUE };
  const reply = (current = client.postUserQuery(request));
  let begun = false;
  try {
    for await (const event of reply) {
      switch (event.case) {
        case "started":
          if (begun) {
            process.stdout.write("\n[the reply begins anew]\n");
          }
          begun = true;
          break;
        case "textDelta":
          process.stdout.write(event.value.text);
          break;
        case "skillCall":
          process.stderr.write(`[${event.value.name} ${event.value.argumentsJson}]\n`);
          break;
        case "skillResult":
          process.stderr.write(`[${event.value.outcome.case ?? "nothing"}: ${event.value.outcome.value ?? ""}]\n`);
          break;
        case "completed":
          process.stdout.write("\n");
      }
    }
  } catch (error) {
    process.stdout.write(begun ? "\n" : "");
    complain(error);
  } finally {
    current = undefined;
  }
}

function complain(error: unknown): void {
  if (!(error instanceof PalaverError)) {
    throw error;
  }
  process.stderr.write(`error: ${error.message} (${[error.status, error.reason].filter(Boolean).join(", ")})\n`);
}

function interrupt(): void {
  if (current) {
    // To leave the loop is not enough: the turn was posted to go on without its caller.
    client.cancelTurn({ id, requestId: current.requestId }).catch(complain);
  } else {
    input.close();
  }
}

process.on("SIGINT", interrupt); // of another process
input.on("SIGINT", interrupt); // of the keyboard

try {
  await client.createAssistant({ id, ifExists: IfExists.KEEP });
} catch (error) {
  complain(error);
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
