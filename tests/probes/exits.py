import os
import sys


class Thing:
    def __str__(self):
        return "a thing"


WAYS = {
    "code": lambda: sys.exit(7),
    "large": lambda: sys.exit(256 + 5),
    "none": lambda: sys.exit(None),
    "text": lambda: sys.exit("the disk is full"),
    "object": lambda: sys.exit(Thing()),
    "immediate": lambda: os._exit(9),
}
print("before", flush=True)
WAYS[sys.argv[1]]()
print("not reached")
