"""``getsockopt(TCP_INFO)``: the state of a connection, and when its peer was last heard. tcp(7)"""

from __future__ import annotations

import _socket
import struct
from typing import Any, Final

from sockguard import endpoints
from sockguard.findings import Observation
from sockguard.tcp import TcpState

# Linux, include/uapi/linux/tcp.h. Not socket.TCP_INFO: some builds lack it.
TCP_INFO: Final = 11
SIZE: Final = 128
_LAST_ACK_RECV: Final = 56
_RTT: Final = 68
_BYTES_ACKED: Final = 120

# include/net/tcp_states.h; NEW_SYN_RECV and BOUND_INACTIVE never belong to a descriptor.
STATES: Final = {
    1: TcpState.ESTABLISHED,
    2: TcpState.SYN_SENT,
    3: TcpState.SYN_RECEIVED,
    4: TcpState.FIN_WAIT_1,
    5: TcpState.FIN_WAIT_2,
    6: TcpState.TIME_WAIT,
    7: TcpState.CLOSED,
    8: TcpState.CLOSE_WAIT,
    9: TcpState.LAST_ACK,
    10: TcpState.LISTEN,
    11: TcpState.CLOSING,
}

_getsockopt: Final = _socket.socket.getsockopt


def decode(info: bytes) -> Observation:
    """Decode a ``struct tcp_info``, of this kernel or of an older one that is shorter."""
    (last_ack_ms,) = struct.unpack_from("=I", info, _LAST_ACK_RECV)
    (rtt_us,) = struct.unpack_from("=I", info, _RTT)
    acked: int | None = None
    if len(info) >= _BYTES_ACKED + 8:
        (acked,) = struct.unpack_from("=Q", info, _BYTES_ACKED)
    return Observation(
        state=STATES.get(info[0]),
        connected=rtt_us > 0,
        last_ack_ms=last_ack_ms,
        bytes_acked=acked,
    )


def read(sock: Any) -> bytes | None:
    """Return the ``struct tcp_info`` of ``sock``, ``None`` if it has none. 1.5 µs."""
    try:
        return _getsockopt(sock, _socket.IPPROTO_TCP, TCP_INFO, SIZE)
    except (OSError, TypeError):
        return None


def last_words(sock: Any) -> tuple[bytes | None, Any]:
    """Return the ``struct tcp_info`` of ``sock`` and its local address, just before it is freed."""
    return read(sock), endpoints.raw_local(sock)
