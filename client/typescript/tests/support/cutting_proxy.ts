/** A proxy that cuts connections, mutes them or leaves new ones without an answer. */
import { once } from "node:events";
import { connect, createServer } from "node:net";
import type { AddressInfo, Socket } from "node:net";

export class CuttingProxy implements AsyncDisposable {
  readonly #server = createServer();
  readonly #sockets = new Set<Socket>();
  #muted = false;
  /** Whether new connections are accepted but not forwarded. */
  deaf = false;

  private constructor(upstream: string) {
    const [host = "", port] = upstream.split(":");
    this.#server.on("connection", (socket) => {
      if (this.deaf) {
        this.#sockets.add(socket);
        socket.on("error", () => undefined);
        return;
      }
      const other = connect(Number(port), host);
      this.#pump(socket, other);
      this.#pump(other, socket);
    });
  }

  static async start(upstream: string): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(upstream);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** The address that the proxy listens on. */
  get target(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** The number of forwarded connections. */
  get connections(): number {
    return this.#sockets.size / 2;
  }

  /** Resets all connections. Data in flight is lost. */
  cut(): void {
    for (const socket of this.#sockets) {
      socket.resetAndDestroy();
    }
  }

  /** Stops forwarding without closing the connections, like a pulled cable. */
  mute(): void {
    this.#muted = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }

  #pump(from: Socket, to: Socket): void {
    this.#sockets.add(from);
    from.on("data", (data) => {
      if (!this.#muted && !to.write(data)) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    });
    from.on("error", () => undefined);
    from.on("close", () => {
      this.#sockets.delete(from);
      to.destroy();
    });
  }
}
