"""The watcher's thread: native, invisible to ``threading``, deaf to signals, gone before a fork."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal

from sockguard.native import original
from sockguard.stderr import complain

# A fork waits no longer than this for the thread to be gone.
FORK_PATIENCE_S: Final = 0.05
EXIT_PATIENCE_S: Final = 1.0
_POLL_S: Final = 0.0002


class _Beat:
    """One thread's life: a lock to stop it, a lock it lets go of at its end."""

    def __init__(self) -> None:
        allocate = original("_thread", "allocate_lock")
        self.stop: Any = allocate()
        self.done: Any = allocate()
        self.stop.acquire()
        self.done.acquire()
        self.native_id: int | None = None
        self.ident: int | None = None

    def is_gone(self) -> bool:
        """Tell whether the kernel has let go of the thread too: a fork counts those."""
        return self.native_id is None or not os.path.exists(f"/proc/self/task/{self.native_id}")


class Heartbeat:
    """Calls ``beat`` once an interval, from a thread of its own.

    Raw ``_thread``: ``threading.enumerate()`` does not show it, nothing joins it at exit.
    All signals are blocked in it: the kernel delivers them where it would without us.
    ``pthread_sigmask(3)``, ``signal(7)``
    """

    def __init__(self, beat: Callable[[], None], interval_s: float) -> None:
        self._beat: Final = beat
        self._interval_s: Final = interval_s
        self._now: _Beat | None = None
        self._latest: _Beat | None = None
        self._armed = False

    @property
    def is_beating(self) -> bool:
        return self._now is not None

    def start(self) -> None:
        """Start the thread, if none runs. Any thread; raises ``RuntimeError`` if it can't."""
        if self._now is not None:
            return
        beat = self._now = self._latest = _Beat()
        try:
            mask = _block_signals()
            try:
                original("_thread", "start_new_thread")(self._run, (beat,))
            finally:
                _restore_signals(mask)
        except BaseException:
            self._now = None
            raise

    def _run(self, beat: _Beat) -> None:
        beat.native_id = original("_thread", "get_native_id")()
        beat.ident = original("_thread", "get_ident")()
        try:
            while not beat.stop.acquire(True, self._interval_s):
                self._beat()
        except BaseException as error:
            # The host must never pay for our bug; nor may we fail in silence.
            complain(f"the watcher failed and is switched off: {error!r}")
        finally:
            beat.ident = None  # another thread may get the number
            beat.done.release()

    def is_leaving(self) -> bool:
        """Tell whether this very thread is the watcher's, and has been told to stop."""
        beat = self._latest
        is_ours = beat is not None and beat.ident == original("_thread", "get_ident")()
        return is_ours and beat is not self._now

    def stop(self, patience_s: float) -> bool:
        """Stop the thread and wait until it is gone, so long at most; tell whether it is."""
        beat, self._now = self._now, None
        if beat is None:
            return True
        deadline = time.monotonic() + patience_s
        beat.stop.release()
        if not beat.done.acquire(True, patience_s):
            return False
        sleep = original("time", "sleep")
        while not beat.is_gone():
            if time.monotonic() >= deadline:
                return False
            sleep(_POLL_S)
        return True

    # After a fork the thread can't always start at once; then it does, at the latest, with
    # the next run of the collector.

    def arm(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` at the collector's next run, once."""
        if self._armed:
            return
        self._armed = True

        def on_collect(phase: Literal["start", "stop"], info: dict[str, int]) -> None:
            self._armed = False
            place = gc.callbacks.index(on_collect)
            del gc.callbacks[place]
            wake()
            # The collector walks this list by index: it would skip what has moved up.
            if place < len(gc.callbacks):
                gc.callbacks[place](phase, info)

        self._on_collect = on_collect
        gc.callbacks.append(on_collect)

    def disarm(self) -> None:
        """Let the collector go, at the end of a guard."""
        if self._armed:
            self._armed = False
            with suppress(ValueError):
                gc.callbacks.remove(self._on_collect)


def _block_signals() -> Any:
    if not hasattr(signal, "pthread_sigmask"):
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _restore_signals(mask: Any) -> None:
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
