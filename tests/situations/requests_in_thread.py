"""A thread streams a requests response, and is stuck: the queue for its results is full."""

import queue
import threading

import peer
import requests

RESULTS = queue.Queue(maxsize=1)
RESULTS.put("nobody takes this")


def fetch(url):
    session = requests.Session()
    session.trust_env = False
    with session, session.get(url, stream=True) as response:
        RESULTS.put(response.status_code)


server = peer.Server(peer.http_answer(peer.LARGE))
thread = threading.Thread(target=fetch, args=(server.url,), name="fetcher")
thread.start()
peer.stay()
RESULTS.get()
thread.join()
