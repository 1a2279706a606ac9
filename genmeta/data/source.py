"""The one interface of all data sources; a YAML names one by `class_path`."""

from abc import ABC, abstractmethod

from genmeta.data.table import ImageTable


class DataSource(ABC):
    """Something that loads an image table."""

    @abstractmethod
    def load(self) -> ImageTable:
        """Return the whole table, reading or making it.

        Raises:
            UserError: it cannot be had; the message says which file to put where.
        """
