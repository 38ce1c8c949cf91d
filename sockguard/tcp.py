"""The states of a TCP connection, by the names of RFC 9293, section 3.3.2."""

from __future__ import annotations

import enum


class TcpState(enum.Enum):
    """A connection state; the value is OpenTelemetry's ``network.connection.state``."""

    CLOSED = "closed"
    LISTEN = "listen"
    SYN_SENT = "syn_sent"
    SYN_RECEIVED = "syn_received"
    ESTABLISHED = "established"
    FIN_WAIT_1 = "fin_wait_1"
    FIN_WAIT_2 = "fin_wait_2"
    CLOSE_WAIT = "close_wait"
    CLOSING = "closing"
    LAST_ACK = "last_ack"
    TIME_WAIT = "time_wait"
