"""A bare grpc.aio echo server: `python -m benchmarks.echo ADDRESS`."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import grpc


async def answer(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def serve(address: str) -> None:
    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()  # as the gateway does
    asyncio.run(serve(sys.argv[1]))
