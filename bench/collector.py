"""An OTLP receiver that throws everything away, so that the server's export has a place to go to."""

from __future__ import annotations

import asyncio

import grpc


async def main() -> None:
    """Serves until the process is killed."""

    async def discard(_request: bytes, _context: object) -> bytes:
        return b""

    server = grpc.aio.server()
    for service in ("trace.v1.TraceService", "metrics.v1.MetricsService"):
        handlers = {"Export": grpc.unary_unary_rpc_method_handler(discard)}
        name = f"opentelemetry.proto.collector.{service}"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"collector listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
