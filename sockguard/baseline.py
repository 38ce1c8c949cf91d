"""Leaks that are known and tolerated, in a file: by who leaks, by fingerprint, by count.

By who leaks, because then a part of the tests, or one worker of several, is judged as the
whole is: a test's entry counts for that test alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

VERSION: Final = 1


class BaselineError(ValueError):
    """A file that can't be used: one sentence that names it and the cure."""


class Known(NamedTuple):
    """How many sockets of one fingerprint, and where they are opened, for the reader."""

    count: int  # type: ignore[assignment]  # tuple has a method of that name
    site: str


#: By the owner's key, then by fingerprint.
Leaks = dict[str, dict[str, Known]]


def _known(entry: Any) -> Known:
    count, site = entry["count"], entry["site"]
    if type(count) is not int or count < 1 or not isinstance(site, str):
        raise TypeError
    return Known(count=count, site=site)


def read(path: Path) -> Leaks:
    """Read the file. Raises ``BaselineError``."""
    cure = "mend it, or write it anew with --sockguard-update-baseline"
    try:
        text = path.read_text("utf-8", "surrogatepass")
    except FileNotFoundError:
        raise BaselineError(
            f"baseline {path} does not exist; create it with --sockguard-update-baseline"
        ) from None
    except (OSError, ValueError) as error:
        raise BaselineError(f"baseline {path} can't be read ({error}); {cure}") from None
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise BaselineError(
                f"baseline {path} has version {content['version']!r}, this sockguard reads"
                f" {VERSION}; write it anew with --sockguard-update-baseline"
            )
        return {
            str(owner): {str(name): _known(entry) for name, entry in of_it.items()}
            for owner, of_it in content["leaks"].items()
        }
    except BaselineError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BaselineError(f"baseline {path} is no baseline of sockguard; {cure}") from None


def write(path: Path, leaks: Leaks) -> None:
    """Write the file, whole or not at all. Raises ``BaselineError``."""
    content = {
        "version": VERSION,
        "leaks": {
            owner: {
                name: {"count": known.count, "site": known.site}
                for name, known in sorted(of_it.items())
            }
            for owner, of_it in sorted(leaks.items())
            if of_it
        },
    }
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        draft.write_text(text, "utf-8", "surrogatepass")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):  # what could not be written can't be deleted, mostly
            draft.unlink()
        raise BaselineError(f"baseline {path} can't be written ({error})") from None


def gone(old: Leaks, found: Leaks, judged: Iterable[str]) -> list[str]:
    """Return a line for each entry that leaks less than it says, of those that were judged."""
    lines = []
    for owner in sorted(set(judged) & old.keys()):
        for name, known in sorted(old[owner].items()):
            now = found.get(owner, {}).get(name)
            count = 0 if now is None else now.count
            if count < known.count:
                lines.append(f"{owner}: [{name}] {known.site}: {count} instead of {known.count}")
    return lines


def updated(old: Leaks, found: Leaks, judged: Iterable[str]) -> Leaks:
    """Return what the file is to say: what was judged as it was found, the rest as it was."""
    seen = set(judged) | found.keys()
    return {owner: of_it for owner, of_it in old.items() if owner not in seen} | found


def merge(into: Leaks, more: Mapping[str, Mapping[str, Known]]) -> None:
    """Add what another worker found; of one owner seen by both, the larger count."""
    for owner, of_it in more.items():
        mine = into.setdefault(owner, {})
        for name, known in of_it.items():
            if name not in mine or mine[name].count < known.count:
                mine[name] = known
