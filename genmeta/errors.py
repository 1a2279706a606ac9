"""Messages to the user: the exception for errors that a user can fix, and lines that stop nothing."""

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input. The message names the file or the dotted option, what was found and what would work.

    The command line prints only the message, without a traceback, and exits with 2. It is not a ValueError, because a
    parser takes a ValueError for a wrong type.
    """

    def __str__(self) -> str:
        """Return the message on one line."""
        return printable(super().__str__())


def tell(line: str) -> None:
    """Print a line on standard error that the user should know, and go on."""
    print(f"genmeta: {line}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a text on one line, without terminal codes: names from files may contain both."""
    return "".join(c if c.isprintable() else " " for c in text)


def require_positive(owner: str, **sizes: int) -> None:
    """Raise UserError with the owner and all sizes if a size is below 1."""
    if min(sizes.values()) < 1:
        found = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise UserError(f"{owner}: sizes must be at least 1, found {found}")


def begun_with(word: str, known: Iterable[str]) -> str | None:
    """Return the shortest known word that begins with `word`, which must have three letters in its last dotted part."""
    if len(word.rsplit(".", 1)[-1]) < 3:
        return None
    return min((k for k in known if k.startswith(word) and "." not in k[len(word) :]), key=len, default=None)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known word most like `word`, or `""` if none is close.

    If the word is the beginning of a known word, that one is nearest. In a dotted word the first unknown part is the
    mistake, and words of the same group are compared first.
    """
    known = sorted(set(known))
    if begun := begun_with(word, known):
        return f"; did you mean '{begun}'?"
    parts = word.split(".")
    for n in range(1, len(parts)):
        heads = {".".join(k.split(".")[:n]) for k in known}
        if (head := ".".join(parts[:n])) in heads:
            continue
        in_group = [h for h in heads if h.startswith("".join(f"{part}." for part in parts[: n - 1]))]
        # compare only the last part: the parts before it are right and would make all words alike
        last = {h.rsplit(".", 1)[-1]: h for h in in_group if h.count(".") == n - 1}
        found = begun_with(head, last.values()) or next(
            (last[m] for m in difflib.get_close_matches(parts[n - 1], last, n=1, cutoff=0.6)), None
        )
        if found:
            return f"; did you mean '{'.'.join([found, *parts[n:]])}'?"
        break
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if not match:
        last = {k.rsplit(".", 1)[-1]: k for k in known}
        match = [last[m] for m in difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    return f"; did you mean '{match[0]}'?" if match else ""
