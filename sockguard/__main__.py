"""``python -m sockguard``."""

from sockguard.cli import main

if __name__ == "__main__":
    main()
