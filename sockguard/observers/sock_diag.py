"""``sock_diag(7)``: what only the kernel's own tables tell, asked for one socket at a time.

One netlink request and one answer; no dump, no privilege needed in one's own network
namespace. A kernel or a sandbox that refuses makes the answer unknown.
"""

from __future__ import annotations

import _socket
import ipaddress
import struct
from typing import Any, Final, NamedTuple

from sockguard.observers.tcp_info import STATES
from sockguard.tcp import TcpState

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_HEADER: Final = struct.Struct("=IHHII")
_ALL_STATES: Final = 0xFFFFFFFF
# INET_DIAG_NOCOOKIE, unix_diag's likewise: any generation of the socket.
_ANY_COOKIE: Final = b"\xff" * 8
_INET_RQUEUE: Final = 4 + 48 + 4
_INET_OWNER: Final = _INET_RQUEUE + 8
_UNIX_PEER: Final = 2
_UDIAG_SHOW_PEER: Final = 4


def _ask(payload: bytes) -> bytes | None:
    """Send one request; return the answer's payload, ``None`` when refused."""
    size = _NLMSG_HEADER.size + len(payload)
    header = _NLMSG_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        netlink = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    except (OSError, AttributeError):  # AttributeError: not Linux
        return None
    try:
        netlink.settimeout(0.2)
        netlink.sendto(header + payload, (0, 0))
        answer = netlink.recv(8192)
    except OSError:
        return None
    finally:
        netlink.close()
    if len(answer) < _NLMSG_HEADER.size:
        return None
    length, kind, *_ = _NLMSG_HEADER.unpack_from(answer)
    return answer[_NLMSG_HEADER.size : length] if kind == _SOCK_DIAG_BY_FAMILY else None


def inet_request(family: int, local: Any, peer: Any) -> bytes:
    """Encode a ``struct inet_diag_req_v2`` for one TCP connection.

    Addresses as ``getsockname`` has them. A link-local one is found only with its scope.
    """

    def packed(host: str) -> bytes:
        return ipaddress.ip_address(host.partition("%")[0]).packed.ljust(16, b"\0")

    return (
        struct.pack("=BBBBI", family, _socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
        + struct.pack("!HH", local[1], peer[1])
        + packed(local[0])
        + packed(peer[0])
        + struct.pack("=I", local[3] if len(local) > 3 else 0)
        + _ANY_COOKIE
    )


def decode_rqueue(message: bytes) -> int | None:
    """Decode ``idiag_rqueue`` of a ``struct inet_diag_msg``: unread bytes, a FIN counts one."""
    if len(message) < _INET_RQUEUE + 4:
        return None
    (rqueue,) = struct.unpack_from("=I", message, _INET_RQUEUE)
    return int(rqueue)


def receive_queue(family: int, local: Any, peer: Any) -> int | None:
    """Return what waits to be read on a TCP connection, its FIN counted as one byte."""
    message = _ask(inet_request(family, local, peer))
    return None if message is None else decode_rqueue(message)


class Connection(NamedTuple):
    """A TCP connection as the kernel has it, whoever made it."""

    state: TcpState | None
    #: 0: no process has a descriptor of it.
    inode: int
    #: The user who made it.
    uid: int


def decode_connection(message: bytes) -> Connection | None:
    """Decode a ``struct inet_diag_msg``; ``None`` for a listener."""
    if len(message) < _INET_OWNER + 8:
        return None
    state = STATES.get(message[1])
    # For want of the connection, the kernel returns who would accept it.
    if state is TcpState.LISTEN:
        return None
    uid, inode = struct.unpack_from("=II", message, _INET_OWNER)
    return Connection(state, inode, uid)


def connection(family: int, local: Any, peer: Any) -> Connection | None:
    """Return the TCP connection of this network namespace that has these two ends."""
    message = _ask(inet_request(family, local, peer))
    return None if message is None else decode_connection(message)


def decode_unix_peer(message: bytes) -> int | None:
    """Decode UNIX_DIAG_PEER of a ``struct unix_diag_msg``: the peer's inode, 0 when closed."""
    offset = 16
    while offset + 8 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if kind == _UNIX_PEER and length >= 8:
            (inode,) = struct.unpack_from("=I", message, offset + 4)
            return int(inode)
        if length < 4:
            break
        offset += (length + 3) & ~3
    return None


def unix_peer(inode: int) -> int | None:
    """Return the inode of the socket that the AF_UNIX socket ``inode`` is connected to.

    0: it was closed. ``None``: unknown, or it is gone altogether.
    """
    message = _ask(
        struct.pack("=BBHIII", _socket.AF_UNIX, 0, 0, _ALL_STATES, inode, _UDIAG_SHOW_PEER)
        + _ANY_COOKIE
    )
    return None if message is None else decode_unix_peer(message)
