import gc
import socket
import weakref


class Node:
    def __init__(self):
        self.me = self
        self.sock = socket.socket()

    def close(self):
        self.sock.close()


gc.disable()
gc.collect()
print(gc.callbacks, gc.get_stats()[2]["uncollectable"])
nodes = [Node() for _ in range(5)]
print(sum(type(one) is Node for one in gc.get_objects()))
print(len(gc.get_referrers(nodes[0].sock)), len(gc.get_referents(nodes[0].sock)))
counts = [weakref.getweakrefcount(node) for node in nodes]
print(counts)
for node in nodes:
    node.close()
ends = []
watched = [weakref.ref(node, ends.append) for node in nodes]
del node, nodes
print(gc.collect(), len(ends), gc.garbage)
print(sum(type(one) is Node for one in gc.get_objects()))
