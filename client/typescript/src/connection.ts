/** The connection to the server: target, TLS, token and gRPC options. */
import { readFileSync } from "node:fs";
import { BlockList, isIPv4, isIPv6 } from "node:net";

import { ChannelCredentials, Client, connectivityState } from "@grpc/grpc-js";
import type { ChannelOptions, Metadata } from "@grpc/grpc-js";

import type { Limits } from "./calls.js";
import { ask, metadataOf } from "./token.js";
import type { Token } from "./token.js";
import { VERSION } from "./version.js";

/** The default target. */
export const DEFAULT_TARGET = "127.0.0.1:50051";

/**
 * Balances calls over all addresses of the server, and makes gRPC retry the calls that only read while it is unavailable. Other
 * calls are not retried, because a retry after a lost response can do harm: `CreateAssistant` would fail with
 * `ALREADY_EXISTS` after its own success. It equals `client/vectors/service_config.json`.
 */
export const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [
        { service: "palaver.v1.AssistantService", method: "GetAssistant" },
        { service: "palaver.v1.AssistantService", method: "ListMessages" },
      ],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
  retryThrottling: { maxTokens: 100, tokenRatio: 0.1 },
} as const;

const DEFAULT_OPTIONS: ChannelOptions = {
  "grpc.primary_user_agent": `palaver-typescript/${VERSION}`,
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  "grpc.service_config_disable_resolution": 1,
  // gRPC's defaults, from a second to two minutes, suit a server that is down rather than one that is being replaced.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 5_000,
  // A model may be silent for a long time. Pings detect a server that is gone.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // The contract keeps responses below 4 MiB. gRPC's default limit is exactly 4 MiB, which leaves no headroom.
  "grpc.max_receive_message_length": 8 * 1024 * 1024,
  // A connection that was abandoned must not be reused from a pool.
  "grpc.use_local_subchannel_pool": 1,
};

/** gRPC's default in other languages. grpc-js waits forever for a server that accepts a connection and stays silent. */
const CONNECT_TIMEOUT_MS = 20_000;

/** A PEM file by its path or URL, or its content. */
export type Pem = string | URL | Uint8Array;

/** A certificate chain and its private key. */
export interface ClientCertificate {
  readonly certificate: Pem;
  readonly key: Pem;
}

/** The options of a connection. */
export interface ConnectionOptions {
  readonly tls?: boolean | Pem | undefined;
  readonly clientCertificate?: ClientCertificate | undefined;
  readonly token?: Token | undefined;
  readonly channelOptions?: ChannelOptions | undefined;
}

/** A connection, which is opened by the first call. */
export class Connection {
  readonly #open: () => Client;
  readonly #connectTimeoutMs: number;
  readonly #metadata: (limits: Limits) => Metadata | Promise<Metadata>;
  #grpc: Client;
  #connecting: NodeJS.Timeout | undefined;

  /**
   * @throws TypeError when the token would be sent over the network in the clear or is not a valid header value, or when
   *   a client certificate is given without TLS.
   * @throws Error when a PEM file can't be read, or the client certificate does not belong to its key.
   */
  constructor(
    target: string,
    { tls = false, clientCertificate, token, channelOptions }: ConnectionOptions,
    connectTimeoutMs = CONNECT_TIMEOUT_MS,
  ) {
    const constant = metadataOf(typeof token === "function" ? undefined : token);
    const local = isLocal(target);
    if (token !== undefined && tls === false && !local) {
      throw new TypeError(`the token would be sent to "${target}" in the clear: use TLS`);
    }
    const security = credentials(tls, clientCertificate);
    const options = {
      ...DEFAULT_OPTIONS,
      // Calls to this machine never go through a proxy, whatever `http_proxy` says.
      ...(local ? { "grpc.enable_http_proxy": 0 } : {}),
      ...channelOptions,
    };
    this.#metadata = typeof token === "function" ? (limits) => ask(token, limits) : () => constant.clone();
    this.#connectTimeoutMs = connectTimeoutMs;
    this.#open = () => new Client(target, security, options);
    this.#grpc = this.#open();
    this.#watch(this.#grpc);
  }

  /** The gRPC client for the next call. */
  get grpc(): Client {
    return this.#grpc;
  }

  /** Closes the connection after the calls in progress have ended. */
  close(): void {
    this.#grpc.close();
  }

  /** Returns the metadata of a call, or promises it if a function returns the token. The promise fails with a `PalaverError`. */
  metadata(limits: Limits): Metadata | Promise<Metadata> {
    return this.#metadata(limits);
  }

  /** Abandons a connection that takes too long. The calls that wait for it fail with `UNAVAILABLE`. */
  #watch(grpc: Client): void {
    const channel = grpc.getChannel();
    const state = channel.getConnectivityState(false);
    if (grpc !== this.#grpc) {
      return;
    }
    clearTimeout(this.#connecting);
    if (state === connectivityState.SHUTDOWN) {
      return;
    }
    if (state === connectivityState.CONNECTING) {
      const giveUp = (): void => {
        this.#grpc = this.#open();
        this.#watch(this.#grpc);
        grpc.close();
      };
      this.#connecting = setTimeout(giveUp, this.#connectTimeoutMs).unref();
    }
    channel.watchConnectivityState(state, Infinity, () => {
      this.#watch(grpc);
    });
  }
}

/** Returns whether a target, in the syntax of grpc-js, can only mean this machine. */
function isLocal(target: string): boolean {
  const scheme = /^(dns|ipv4|ipv6|unix):/.exec(target)?.[1];
  if (scheme === undefined) {
    return isLoopback(target, { orLocalhost: true });
  }
  const rest = target.slice(scheme.length + 1).replace(/^\/\/\//, scheme === "unix" ? "/" : "");
  if (rest.startsWith("//")) {
    return false; // "dns://authority/name" asks that name server, which may return any address
  }
  switch (scheme) {
    case "unix":
      return rest !== "";
    case "dns":
      return isLoopback(rest, { orLocalhost: true });
    default:
      return rest.split(",").every((address) => isLoopback(address));
  }
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** An ASCII name or IPv4 address, or an IPv6 address in brackets, with an optional port. */
const HOST_AND_PORT = /^(?:([0-9a-z.]+)|\[([0-9a-f:.]+)\])(?::\d+)?$/i;

/** Returns whether an address, with or without a port, is a loopback address, or "localhost" if that is allowed. */
function isLoopback(address: string, { orLocalhost = false } = {}): boolean {
  const [, host, ipv6 = address] = HOST_AND_PORT.exec(address) ?? []; // without a port, an IPv6 address needs no brackets
  if (host === undefined) {
    return isIPv6(ipv6) && !ipv6.includes("%") && LOOPBACK.check(ipv6, "ipv6");
  }
  return isIPv4(host) ? LOOPBACK.check(host, "ipv4") : orLocalhost && host.toLowerCase() === "localhost";
}

function credentials(tls: boolean | Pem, client: ClientCertificate | undefined): ChannelCredentials {
  if (tls === false) {
    if (client !== undefined) {
      throw new TypeError("a client certificate requires TLS");
    }
    return ChannelCredentials.createInsecure();
  }
  const authorities = tls === true ? null : read(tls);
  return client === undefined
    ? ChannelCredentials.createSsl(authorities)
    : ChannelCredentials.createSsl(authorities, read(client.key), read(client.certificate));
}

function read(pem: Pem): Buffer {
  return pem instanceof Uint8Array ? Buffer.from(pem) : readFileSync(pem);
}
