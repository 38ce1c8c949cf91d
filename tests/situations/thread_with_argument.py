"""A thread was given a connection as its argument, and waits for an event."""

import threading

import peer

GO = threading.Event()


def handle(conn):
    GO.wait()
    conn.close()


threading.Thread(target=handle, args=(peer.abandoned(),), name="worker").start()
peer.stay()
GO.set()
