"""The interpreter's own primitives, also where gevent or eventlet has put its own in their place.

The watcher is a native thread: a cooperative lock or a green ``start_new_thread`` would tie
it to the event loop whose stall it is there to see.
"""

from __future__ import annotations

import _socket
import importlib
import socket
import sys
from typing import Any


def original(module: str, name: str) -> Any:
    """Return ``module.name`` as the interpreter made it.

    Raises ``AttributeError`` where the platform has no such thing (``select.epoll``
    outside Linux).
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        return getattr(eventlet.original(module), name)
    # Not import_module at once: on 3.10 it takes the module's import lock, which a thread
    # may have held at a fork, for good.
    return getattr(sys.modules.get(module) or importlib.import_module(module), name)


def socket_class() -> Any:
    """Return the class that all sockets are made of, ``socket.socket`` as a rule.

    A test's mock, or a subclass that some program puts there (pytest-socket, PySocks), is
    not that one; gevent's class, which replaces it, is.
    """
    of_now: Any = socket.socket
    for cls in _socket.socket.__subclasses__():
        if cls.__module__ == "socket" and cls.__qualname__ == "socket":
            if not isinstance(of_now, type) or issubclass(of_now, cls):
                return cls
            break
    return of_now
