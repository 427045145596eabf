"""xlmstream-server: the gateway as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from xlmstream_server.broker import BrokerDown, BrokerMisconfigured
from xlmstream_server.config import ConfigError, GatewayConfig, load_config, split_address
from xlmstream_server.gateway import serve
from xlmstream_server.observe.logs import configure_logging

EXIT_USAGE = 2
EXIT_CANNOT_START = 1


def main() -> int:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once. Returns the exit status."""
    try:
        config = load_config(sys.argv[1:])
    except ConfigError as wrong:
        print(f"xlmstream-server: {wrong}", file=sys.stderr)
        return EXIT_USAGE
    configure_logging(config.observe.log_level, config.observe.log_format, sys.stderr)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config))
    except (BrokerDown, BrokerMisconfigured, OSError) as cause:
        print(f"xlmstream-server: cannot start: {cause}", file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


async def _run(config: GatewayConfig) -> None:
    loop = asyncio.get_running_loop()
    async with serve(config) as gateway:

        def on_signal() -> None:
            gateway.stopped.set()
            for number in (signal.SIGTERM, signal.SIGINT):  # a second one has its usual effect
                loop.remove_signal_handler(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        with contextlib.ExitStack() as stack:
            if config.observe.metrics:
                stack.enter_context(gateway.metrics.served(*split_address(config.observe.metrics)))
            print(f"xlmstream-server ready on {gateway.address}", flush=True)
            await gateway.stopped.wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is importable: 10 to 20 % less CPU on gRPC's paths."""
    try:
        import uvloop
    except ImportError:
        logging.getLogger(__name__).debug("uvloop is not installed; using asyncio's own loop")
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
