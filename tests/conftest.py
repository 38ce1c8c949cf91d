"""Makes ``tests/`` importable, and the suite independent of the shell that it is run from."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hypothesis import settings

# pytest's default import mode does it too; this holds in every mode.
_TESTS = str(Path(__file__).parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

# A guard that the developer's shell asks for is none of the tests' business.
for name in [name for name in os.environ if name.startswith("SOCKGUARD")]:
    del os.environ[name]

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow, not wrong: no example fails for the time it took.
settings.register_profile("sockguard", deadline=None, print_blob=True)
settings.load_profile("sockguard")
