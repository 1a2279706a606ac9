"""`python -m genmeta`."""

from genmeta.cli.main import entry

if __name__ == "__main__":
    entry()
