"""Looks like `stuck`: a thread has it and waits, but by a longer way an application has it too."""

import threading

import peer

GO = threading.Event()


class Part:
    def __init__(self, name, part):
        self.parts = {name: part}


def connect():
    global APP
    link = APP = Part("link", peer.abandoned())
    for name in ("shard", "pool", "region", "database"):
        APP = Part(name, APP)
    return link


def work():
    link = connect()
    GO.wait()
    link.parts["link"].close()


thread = threading.Thread(target=work, name="worker")
thread.start()
peer.stay()
GO.set()
thread.join()
