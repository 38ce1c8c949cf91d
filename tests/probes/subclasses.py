import _socket
import contextlib
import gc
import socket
import weakref


class Counting(socket.socket):
    made = 0

    def __init__(self, family=socket.AF_INET, *, label=""):
        type(self).made += 1
        self.label = label
        super().__init__(family, socket.SOCK_STREAM)


class Odd(socket.socket):
    """Its own idea of a descriptor, of equality, of attributes."""

    def fileno(self):
        raise RuntimeError("fileno is mine")

    def __eq__(self, other):
        raise RuntimeError("eq is mine")

    def __bool__(self):
        raise RuntimeError("bool is mine")

    def __hash__(self):
        raise RuntimeError("hash is mine")

    def __getattribute__(self, name):
        if name in ("family", "type", "proto", "getsockname", "gettimeout"):
            raise RuntimeError(f"{name} is mine")
        return super().__getattribute__(name)


class Lazy(socket.socket):
    def __init__(self):
        """Never becomes a socket by itself."""

    def __getattr__(self, name):
        return f"no {name}"


class Twice(socket.socket):
    def __init__(self):
        super().__init__()
        first = self.detach()
        super().__init__(fileno=first)


class Unweak(_socket.socket):
    __slots__ = ()


def finish(sock):
    with contextlib.suppress(RuntimeError):
        sock.close()


with Counting(label="a") as one, Counting(label="b") as two:
    print(isinstance(one, socket.socket), one.label, two.label, Counting.made, one == two)
    print(issubclass(Counting, _socket.socket), type(one).__mro__[1] is socket.socket)
    try:
        one.dup()
    except TypeError as error:
        print(error)
odd = Odd()
finish(odd)
for act in (
    lambda odd=odd: odd == 1,
    lambda odd=odd: hash(odd),
    lambda odd=odd: odd.family,
    lambda odd=odd: bool(odd),
    odd.fileno,
):
    try:
        print(act())
    except RuntimeError as error:
        print(error)
lazy = Lazy()
print(lazy.nothing, _socket.socket.fileno(lazy))
twice = Twice()
print(twice.fileno() > 2)
twice.__init__()
twice.close()
Unweak().close()
reference = weakref.ref(Counting())
del one, two, odd, act, lazy, twice
gc.collect()
print(reference(), Counting.made, gc.garbage)
