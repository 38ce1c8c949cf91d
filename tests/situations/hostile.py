"""Objects that count every call of theirs stand around sockets and on the ways to them.

Attribute access, comparison, hash, words, length, truth, iteration, descriptors, finalizers,
``__class__``, metaclasses, modules and names: none is to be asked. The program prints how often
each was, when a line of input says so.
"""

import collections
import sys
import threading
import types

import peer

CALLS = collections.Counter()
ARMED = []
GO = threading.Event()


def counted(name, answer):
    def method(*args, **kwargs):
        if ARMED:
            CALLS[name] += 1
        return answer(*args, **kwargs)

    return method


def missing(thing, name, *rest):
    raise AttributeError(name)


def hostile_methods(base):
    """Return special methods that count, and then do what ``base`` does, or fail."""
    answers = {
        "__getattribute__": base.__getattribute__,
        "__getattr__": missing,
        "__setattr__": base.__setattr__,
        "__delattr__": base.__delattr__,
        "__dir__": base.__dir__,
        "__eq__": lambda one, other: one is other,
        "__ne__": lambda one, other: one is not other,
        "__lt__": lambda one, other: False,
        "__gt__": lambda one, other: False,
        "__hash__": lambda thing: 1,
        "__repr__": lambda thing: "hostile",
        "__str__": lambda thing: "hostile",
        "__format__": lambda thing, spec: "hostile",
        "__bytes__": lambda thing: b"hostile",
        "__bool__": lambda thing: False,
        "__len__": lambda thing: 0,
        "__iter__": lambda thing: iter(()),
        "__contains__": lambda thing, other: False,
        "__getitem__": missing,
        "__length_hint__": lambda thing: 0,
        "__next__": lambda thing: missing(thing, "__next__"),
        "__reversed__": lambda thing: iter(()),
        "__call__": lambda thing, *args: None,
        "__index__": lambda thing: 0,
        "__int__": lambda thing: 0,
        "__float__": lambda thing: 0.0,
        "__del__": lambda thing: None,
        "__sizeof__": lambda thing: 1,
        "__reduce_ex__": lambda thing, protocol: (str, ()),
        "__enter__": lambda thing: thing,
        "__exit__": lambda thing, *error: None,
        "keys": lambda thing: (),
        "items": lambda thing: (),
        "values": lambda thing: (),
        "get": lambda thing, *args: None,
        "fileno": lambda thing: -1,
        "close": lambda thing: None,
    }
    methods = {name: counted(f"{base.__name__}.{name}", each) for name, each in answers.items()}
    methods["__class__"] = property(counted(f"{base.__name__}.__class__", lambda thing: int))
    methods["_sock"] = property(counted(f"{base.__name__}._sock", lambda thing: None))
    methods["_name"] = property(counted(f"{base.__name__}._name", lambda thing: "hostile"))
    methods["version"] = property(counted(f"{base.__name__}.version", lambda thing: "1"))
    return methods


class Meta(type):
    """A metaclass whose methods count, too."""


for meta_name, meta_answer in {
    "__getattribute__": type.__getattribute__,
    "__getattr__": missing,
    "__instancecheck__": lambda kind, thing: True,
    "__subclasscheck__": lambda kind, other: True,
    "__subclasses__": lambda kind: [],
    "__eq__": lambda kind, other: kind is other,
    "__hash__": lambda kind: 1,
    "__repr__": lambda kind: "hostile",
    "__str__": lambda kind: "hostile",
    "__bool__": lambda kind: False,
    "__len__": lambda kind: 0,
    "__iter__": lambda kind: iter(()),
    "__dir__": lambda kind: [],
    "__call__": type.__call__,
    "mro": type.mro,
}.items():
    setattr(Meta, meta_name, counted(f"Meta.{meta_name}", meta_answer))


def hostile_class(name, base, **more):
    return Meta(name, (base,), {**hostile_methods(base), **more})


class Descriptor:
    """Counts what is asked of an attribute that its class has."""

    __get__ = counted("Descriptor.__get__", lambda *args: None)
    __set__ = counted("Descriptor.__set__", lambda *args: None)
    __set_name__ = counted("Descriptor.__set_name__", lambda *args: None)


Hostile = hostile_class("Hostile", object, closed=Descriptor(), transport=Descriptor())
Slim = hostile_class("Slim", object, __slots__=("sock",))
Table = hostile_class("Table", dict)
Items = hostile_class("Items", list)
Members = hostile_class("Members", set)
Module = hostile_class("Module", types.ModuleType)
Text = hostile_class("Text", str)
Error = hostile_class("Error", Exception)
Thread = hostile_class("Thread", threading.Thread)

KEPT = []
TABLE = Table()
ITEMS = Items()
CROWD = [Hostile() for _ in range(300)] + [Table(), Items(), Members(), Error("no")]
FDS = {}


def connect(name):
    sock = peer.abandoned()
    FDS[name] = sock.fileno()
    return sock


def attribute():
    holder = Hostile()
    object.__getattribute__(holder, "__dict__")["sock"] = connect("attribute")
    KEPT.append(holder)


def slot():
    holder = Slim()
    type.__getattribute__(Slim, "__dict__")["sock"].__set__(holder, connect("slot"))
    KEPT.append(holder)


def value():
    for _ in range(5):
        dict.__setitem__(TABLE, Hostile(), Hostile())
    dict.__setitem__(TABLE, Hostile(), connect("value"))


def item():
    list.extend(ITEMS, (Hostile(), connect("item"), Hostile()))


def member():
    members = Members()
    set.update(members, (Hostile(), connect("member"), Hostile()))
    KEPT.append(members)


def keeper():
    sock = connect("function")

    def function():
        return sock

    return function


def function():
    kept = keeper()
    kept.__module__ = Hostile()
    kept.__qualname__ = Text("keeper.<locals>.function")
    kept.extra = Hostile()
    KEPT.append(kept)


def fail():
    sock = connect("exception")
    raise Error(sock.fileno())


def exception():
    try:
        fail()
    except Exception as error:
        KEPT.append(error)


def of_class():
    type.__setattr__(Hostile, "shared", connect("class"))


def made_for_frame():
    holder = Hostile()
    object.__getattribute__(holder, "__dict__")["sock"] = connect("frame")
    return holder


WAITING = """
def wait(go, make, crowd):
    beside = crowd[0]
    holder = make()
    ready.set()
    go.wait()
"""


def frame():
    """A frame whose module has no name that could be asked for its words."""
    ready = threading.Event()
    names = {"__name__": Hostile(), "__file__": Hostile(), "ready": ready}
    exec(compile(WAITING, __file__, "exec"), names)
    thread = threading.Thread(target=names["wait"], args=(GO, made_for_frame, CROWD))
    thread.name = "hostile"
    thread.start()
    ready.wait(peer.PATIENCE_S)
    return thread


def crowd_modules():
    lazy = Module("lazy")
    sys.modules["lazy"] = lazy
    sys.modules["no_module"] = Hostile()
    loud = sys.modules["loud"] = types.ModuleType("loud")
    loud.__dict__.update(
        __name__=Hostile(), __file__=Hostile(), __spec__=Hostile(), __version__=Hostile()
    )


crowd_modules()
for make in (attribute, slot, value, item, member, function, exception, of_class):
    make()
running = frame()
peer.wait_for_close_wait(len(FDS))
ARMED.append(True)
peer.say(fds=FDS)
sys.stdin.readline()
ARMED.clear()
peer.say(calls=dict(CALLS))
sys.stdin.read()
GO.set()
running.join()
for name in ("lazy", "no_module", "loud"):
    del sys.modules[name]
