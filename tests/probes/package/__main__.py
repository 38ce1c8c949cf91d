"""What a program sees of itself."""

import sys

name: str = __name__
print(__name__, globals().get("__file__"), __package__, __doc__, __debug__)
print(None if __spec__ is None else (__spec__.name, __spec__.origin, __spec__.parent))
print(type(__builtins__).__name__, type(__loader__).__name__, globals().get("__cached__"))
print(sys.modules["__main__"].__dict__ is globals(), sorted(globals()))
print(sys.argv, sys.path[0])
