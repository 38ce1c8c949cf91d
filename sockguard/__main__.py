"""``python -m sockguard``."""

import sys

# `-m` has put the working folder first: its queue.py or logging.py is the program's, not ours.
_SAFE = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
if __name__ == "__main__" and not _SAFE:
    del sys.path[0]

from sockguard.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
