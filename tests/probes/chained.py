import json
import socket


def load(text):
    return json.loads(text)


def connect():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 9999)
    except OSError as error:
        raise ConnectionError("no way out") from error


try:
    load("{")
except ValueError:
    try:
        connect()
    except ConnectionError as error:
        if hasattr(error, "add_note"):
            error.add_note("seen by the probe")
        try:
            raise
        finally:
            {}["missing"]
