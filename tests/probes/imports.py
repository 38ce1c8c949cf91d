import importlib
import sys
import traceback

for name in ("missing_entirely", "package.missing", "failing", "package.module.deeper"):
    try:
        importlib.import_module(name)
    except ImportError:
        print(traceback.format_exc())
try:
    import missing_module
except ImportError as error:
    print(traceback.format_exc(), error.name, missing_module if False else error.path)
print([name for name in ("missing_entirely", "failing") if name in sys.modules])
import failing  # noqa: E402, F401
