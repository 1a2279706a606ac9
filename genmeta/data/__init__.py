"""Where images come from, and which classes are used for what."""

from genmeta.data.from_dataset import FromDataset as FromDataset
