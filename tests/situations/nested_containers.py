"""A table of tables of lists of connections."""

import peer

TABLE = {"eu": {"busy": [None], "free": []}, "us": {}}


def connect():
    TABLE["eu"]["busy"].append(peer.abandoned())


connect()
peer.stay()
TABLE["eu"]["busy"].pop().close()
