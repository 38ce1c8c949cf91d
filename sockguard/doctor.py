"""``sockguard doctor``: what was chosen on this machine, and why."""

from __future__ import annotations

import _socket
import os
import platform
import sys
from importlib import metadata

import sockguard
from sockguard.config import OPTIONS, Config, switched_on
from sockguard.observers import choose, sock_diag, tcp_info
from sockguard.runner import startup_file


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _tcp_info() -> str:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        info = tcp_info.read(sock)
    finally:
        sock.close()
    if info is None:
        return "no: state and age of a connection come from poll and peek"
    acked = tcp_info.decode(info).bytes_acked
    return f"{len(info)} bytes" + ("" if acked is not None else ", no tcpi_bytes_acked: old kernel")


def _sock_diag() -> str:
    left, right = _socket.socketpair()
    try:
        inode = os.fstat(left.fileno()).st_ino
        peer = sock_diag.unix_peer(inode) if hasattr(_socket, "AF_NETLINK") else None
        answered = peer == os.fstat(right.fileno()).st_ino
    finally:
        left.close()
        right.close()
    if answered:
        return "answers"
    return "refused: an unread FIN and the end of an AF_UNIX peer are unknown"


def _open_files() -> str:
    try:
        import resource
    except ImportError:
        return "unknown"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{soft} (hard limit {hard})"


def examine(config: Config) -> list[str]:
    """Return the examination, a line each: ``name  value``. Opens and closes two sockets."""
    choice = choose(config.observer)
    startup = startup_file()
    rows = [
        ("sockguard", sockguard.__version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("wrapt", _version("wrapt")),
        ("opentelemetry-api", _version("opentelemetry-api")),
        (
            "startup file",
            startup or "missing: SOCKGUARD=1 and python -m sockguard need pip install",
        ),
        ("SOCKGUARD", "on" if switched_on(os.environ) else "off in this environment"),
        ("observer", f"{choice.name} ({choice.reason})"),
        ("TCP_INFO", _tcp_info()),
        ("sock_diag", _sock_diag()),
        ("open files", _open_files()),
    ]
    for option in OPTIONS:
        value = getattr(config, option.name)
        source = config.sources.get(option.name, "default")
        rows.append((option.name, f"{value!r} ({source})"))
    return [f"{name:<18} {value}" for name, value in rows]
