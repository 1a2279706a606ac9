"""Counts what a reader used, and what it passed over, with the reason. Nothing is passed over in silence."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genmeta.data.decode import picture_suffixes

_LITTER = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_LITTER_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "#recycle"}
)
_SHOWN = 5  # reasons in the line; all of them are in the facts
_LONGEST = 60  # characters of a name in the line


def is_litter(name: str) -> bool:
    """Whether a file of this name was left by an operating system, and is not a user's picture."""
    return name.lower() in _LITTER or name.startswith("._")


def is_litter_folder(name: str) -> bool:
    """Whether a folder of this name was left by an archive or an operating system."""
    return name.lower() in _LITTER_FOLDERS


def is_read_anyway(link: Path, root: Path) -> bool:
    """Whether a link leads to a folder that contains it, or to another folder below `root`.

    Following it would run in a circle, or read the same pictures under two names. Hidden folders are read only through
    links, so a link to one does not count.
    """
    target, top = (Path(os.path.realpath(path)) for path in (link, root))
    if Path(os.path.realpath(link.parent)).is_relative_to(target):
        return True
    if not target.is_relative_to(top):
        return False
    return not any(part.startswith(".") or is_litter_folder(part) for part in target.relative_to(top).parts)


def suffix_reason(name: str) -> str:
    """Return why a file of this name is not read."""
    suffix = os.path.splitext(name)[1].lower()
    # numbers and sentences after a dot are no kind of file; each would be a separate reason
    known = re.fullmatch(r"\.(?=.*[a-z])[a-z0-9]{1,8}", suffix)
    return f"of kind {suffix}" if known else "of no kind that the name tells"


@dataclass(frozen=True)
class Account:
    """How many files were used, and how many were passed over, by reason.

    Attributes:
        used: images of the table (for drawn data: fonts and characters).
        passed_over: number for each reason.
        examples: the first name for each reason.
        litter: files left by systems and archives; they are counted, but not shown.
        what: what is counted.
    """

    used: int
    passed_over: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    litter: int = 0
    what: str = "pictures"

    @property
    def found(self) -> int:
        """Number of all files that the reader found."""
        return self.used + sum(self.passed_over.values()) + self.litter

    def facts(self) -> dict[str, Any]:
        """Return the counts as plain values, for a run's record."""
        return {
            "what": self.what,
            "found": self.found,
            "used": self.used,
            "passed_over": dict(self.passed_over),
            "litter": self.litter,
        }

    def state(self) -> dict[str, Any]:
        """Return all fields as plain values; `Account(**state)` is the account again."""
        return {**vars(self), "passed_over": dict(self.passed_over), "examples": dict(self.examples)}

    def __str__(self) -> str:
        """Return one line: how many were used and passed over, and why, with an example for each reason."""
        line = f"{self.what}: {self.used:,} used, {sum(self.passed_over.values()):,} passed over"
        reasons = sorted(self.passed_over, key=lambda reason: -self.passed_over[reason])
        parts = [f"{self.passed_over[r]:,} {r} ({self.examples.get(r, '')})" for r in reasons[:_SHOWN]]
        if more := reasons[_SHOWN:]:
            parts.append(f"{sum(self.passed_over[r] for r in more):,} for {len(more)} more reasons")
        return f"{line}: {', '.join(parts)}" if parts else line

    def less(self, n: int, reason: str, example: str) -> "Account":
        """Return the account with `n` of the used ones passed over for a reason."""
        return replace(
            self,
            used=self.used - n,
            passed_over={**self.passed_over, reason: self.passed_over.get(reason, 0) + n},
            examples={reason: example, **self.examples},
        )


class Tally:
    """Counts files while a reader goes through them.

    Args:
        root: names are shown relative to this folder.
        what: what is counted.
    """

    def __init__(self, root: Path | None = None, what: str = "pictures") -> None:
        self.root, self.what = root, what
        self.used = self.litter = 0
        self._passed_over: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def pass_over(self, reason: str, name: str | Path, n: int = 1) -> None:
        """Count files that are not used."""
        self._passed_over[reason] = self._passed_over.get(reason, 0) + n
        if reason not in self._examples:
            if self.root and isinstance(name, Path) and name.is_relative_to(self.root):
                name = name.relative_to(self.root)
            text = "".join(c if c.isprintable() else " " for c in str(name))  # also of bytes that are no text
            self._examples[reason] = text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}"

    def set_aside(self, place: Sequence[str], name: str | Path) -> bool:
        """Count a file if it is hidden or litter, or is in such a folder; return whether it is.

        Hidden pictures are shown as passed over. Other hidden files are litter, like files of archives and systems.

        Args:
            place: names of its folders, and its own name.
            name: shown in the account.
        """
        if is_litter(place[-1]) or any(is_litter_folder(folder) for folder in place[:-1]):
            self.litter += 1
        elif not any(part.startswith(".") for part in place):
            return False
        elif place[-1].lower().endswith(tuple(picture_suffixes())):
            self.pass_over("hidden", name)
        else:
            self.litter += 1
        return True

    def account(self) -> Account:
        """Return the counts."""
        return Account(self.used, self._passed_over, self._examples, self.litter, self.what)
