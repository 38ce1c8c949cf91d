import socket
import sys

sys.setrecursionlimit(400)
opened = []


def descend():
    opened.append(socket.socket())
    descend()


for _ in range(3):
    try:
        descend()
    except RecursionError as error:
        print("caught", error.__class__.__name__, len(opened) > 300)
    print({sock.fileno() > 2 for sock in opened}, {sock.family for sock in opened})
    for sock in opened:
        sock.close()
    opened.clear()


def deep(levels):
    if levels:
        return deep(levels - 1)
    with socket.socket() as sock:
        return sock.fileno()


sys.setrecursionlimit(20_000)
print(deep(5_000))
