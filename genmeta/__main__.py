"""`python -m genmeta`."""

import sys

from genmeta.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
