"""Say which variables of make are none of this project's: python3 scripts/unknown_variables.py LERNER -- DATA LEARNER …

The Makefile calls it before anything is set up, so it needs no package, and no particular Python 3.
"""

import difflib
import sys


def complaint(unknown: "list[str]", known: "list[str]") -> str:
    """Return one line that names each unknown variable and the known one that it begins, or else is spelt most like."""
    described = []
    for name in unknown:
        begun = [k for k in known if len(name) > 2 and k.startswith(name.upper())]
        near = begun or difflib.get_close_matches(name.upper(), known, n=1)
        described.append(name + (f" (did you mean {near[0]}?)" if near else ""))
    return f"unknown variable {', '.join(described)}; there are {', '.join(known)}"


if __name__ == "__main__":
    end = sys.argv.index("--")
    print(complaint(sys.argv[1:end], sys.argv[end + 1 :]))
