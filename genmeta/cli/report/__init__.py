"""`genmeta report`: run folders as one page."""

from genmeta.cli.report.command import report

__all__ = ["report"]
