/** The token that calls send: a constant, or the result of a function that is called before each call. */
import { Metadata } from "@grpc/grpc-js";

import type { Limits } from "./calls.js";
import { cancelled, deadlineExceeded, tokenFailed } from "./errors.js";
import { LONGEST_TIMER_MS } from "./pause.js";

/** A token, or a function that returns one or promises it. */
export type Token = string | (() => string | Promise<string>);

/** Returns the metadata of a call that sends this token, or none. Throws a `TypeError` if it is not a valid header value. */
export function metadataOf(token: string | undefined): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) {
    if (!/^[!-~]([ -~]*[!-~])?$/.test(token)) {
      throw new TypeError("the token must consist of visible ASCII characters");
    }
    metadata.set("authorization", `Bearer ${token}`);
  }
  return metadata;
}

/** Asks a token function within the limits of a call. Fails with a `PalaverError` whose `cause` is the function's error. */
export async function ask(token: () => string | Promise<string>, { timeoutMs, signal }: Limits): Promise<Metadata> {
  let timer: NodeJS.Timeout | undefined;
  let abort = (): void => undefined;
  const end = new Promise<never>((_, reject) => {
    abort = () => {
      reject(cancelled(signal.reason));
    };
    signal.addEventListener("abort", abort);
    if (timeoutMs < LONGEST_TIMER_MS) {
      timer = setTimeout(() => {
        reject(deadlineExceeded());
      }, timeoutMs);
    }
  });
  try {
    return await Promise.race([end, answer(token)]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

async function answer(token: () => string | Promise<string>): Promise<Metadata> {
  try {
    const text: unknown = await token();
    if (typeof text !== "string") {
      throw new TypeError(`it must return a string, not ${typeof text}`);
    }
    return metadataOf(text);
  } catch (error) {
    throw tokenFailed(error);
  }
}
