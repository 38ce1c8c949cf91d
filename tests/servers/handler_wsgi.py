"""A WSGI application that answers which handler its own connection was given to."""

import gc
import json
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
import handler_probe

from sockguard import handlers


def app(environ, start_response):
    """Answer with the handler by the way out, and with that by gunicorn's worker, as JSON."""
    peer = environ.get("REMOTE_PORT")
    frame = handler_probe.handler_of(int(environ["SERVER_PORT"]), peer and int(peer))
    workers = [thing for thing in gc.get_objects() if type(thing).__name__.endswith("Worker")]
    body = json.dumps([frame, handlers.handler(workers)]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
