import sys
import traceback


def hook(kind, error, trace):
    print("hooked", kind.__name__, error, [frame.name for frame in traceback.extract_tb(trace)])
    if "fail" in sys.argv:
        raise RuntimeError("the hook itself failed")


def work():
    raise LookupError("gone")


sys.excepthook = hook
work()
