"""Connect, accept and close on loopback with no work between: at least 0.80 of the rate.

The worst case there is: two sockets are made and nothing is done with them. Bounded in
count; every batch goes to another loopback address, so that no port runs out although each
connection leaves a TIME_WAIT for a minute.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Final

from benchmarks.measure import LEVELS, Row, compare, in_a_thread, rate, undisturbed

AT_LEAST: Final = 0.80
_BATCH: Final = 100


def _addresses() -> Iterator[str]:
    return (f"127.0.{n // 250}.{n % 250 + 1}" for n in itertools.cycle(range(5000)))


def rows(*, quick: bool) -> list[Row]:
    pairs = 24 if quick else 80
    addresses = _addresses()
    with socket.create_server(("0.0.0.0", 0), backlog=16) as listener:
        port = listener.getsockname()[1]

        def batch(count: int) -> None:
            target = (next(addresses), port)
            for _ in range(count):
                client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.connect(target)
                accepted, _ = listener.accept()
                client.close()
                accepted.close()

        return [
            rate(
                f"bare connect+accept+close, {level}",
                undisturbed(in_a_thread(lambda level=level: compare(batch, _BATCH, level, pairs))),
                at_least=AT_LEAST,
            )
            for level in LEVELS
        ]
