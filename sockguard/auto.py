"""``import sockguard.auto``: put this process under guard, with the environment's options.

``SOCKGUARD=0`` or empty keeps it off.
"""

from __future__ import annotations

import os

from sockguard.startup import install_from_environment

if os.environ.get("SOCKGUARD") not in ("", "0"):
    install_from_environment()
