"""What a pass over the heap costs: foretold from those that were made."""

from __future__ import annotations

import sys
from typing import Final

#: A pass holds the interpreter: processor time that it may take.
MAX_PASS_NS: Final = 50_000_000
#: Objects that one pass may be about, at most.
MAX_WIDTH: Final = 24
# What a pass takes for a block, until it is known here. Measured: 10 to 12 on 3.10 and 3.11,
# 5 to 9 on 3.12 and 3.13.
_NS_A_BLOCK: Final = 12.0
# One pass that was disturbed must not be the last: what was learned is forgotten so.
_FORGET: Final = 0.7
# So many more targets make a pass twice as dear. Measured: 8 to 20.
_AS_DEAR: Final = 10


class Heap:
    """How dear a pass over this process's heap is, learned from those that were made."""

    def __init__(self, most_ns: int = MAX_PASS_NS) -> None:
        self._most_ns = most_ns
        self._ns_a_block = _NS_A_BLOCK
        self.is_too_large = False

    def allows_a_pass(self) -> bool:
        self.is_too_large = self.pass_ns(1) > self._most_ns
        if self.is_too_large:
            self._ns_a_block = max(_NS_A_BLOCK, self._ns_a_block * _FORGET)
        return not self.is_too_large

    def pass_ns(self, targets: int) -> int:
        """Return what a pass for so many targets will take, as far as is known."""
        return int(sys.getallocatedblocks() * self._ns_a_block * (1 + targets / _AS_DEAR))

    def width(self) -> int:
        """Return how many targets a pass may have to stay within its bound."""
        one = self.pass_ns(0)
        return max(1, min(MAX_WIDTH, int((self._most_ns / max(one, 1) - 1) * _AS_DEAR)))

    def learn(self, took_ns: int, targets: int) -> None:
        # A pass compares each reference with all targets: eight cost half as much again.
        a_block = took_ns / max(sys.getallocatedblocks(), 1) / (1 + targets / _AS_DEAR)
        self._ns_a_block += (a_block - self._ns_a_block) / (1 if a_block > self._ns_a_block else 4)
