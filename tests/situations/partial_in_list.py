"""A functools.partial has the connection among its arguments."""

import functools

import peer

JOBS = []


def send(sock, text):
    sock.close()


def plan():
    JOBS.append(functools.partial(send, peer.abandoned(), text="hello"))


plan()
peer.stay()
JOBS.pop()()
