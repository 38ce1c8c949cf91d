"""Looks like `exception`: one is kept, but the frame that it shows still runs, and waits."""

import threading

import peer

ERRORS = []
GO = threading.Event()


def work():
    conn = peer.abandoned()
    try:
        raise ValueError("a detail went wrong")
    except ValueError as error:
        ERRORS.append(error)
    GO.wait()
    conn.close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
GO.set()
thread.join()
ERRORS.clear()
