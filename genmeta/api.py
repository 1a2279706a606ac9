"""The names that a program needs from pictures to predictions, in one place: `import genmeta.api as gm`.

All of them are documented where they are; other parts are imported from there.
"""

from genmeta.data.from_dataset import FromDataset
from genmeta.data.glyphs import Glyphs
from genmeta.data.image_folder import ImageFolder
from genmeta.data.splits import DrawnSplit
from genmeta.episode import EpisodeShape
from genmeta.learners.metric import ProtoNet
from genmeta.learners.predictor import load
from genmeta.models.backbones import Conv4
from genmeta.models.redraw import DeformationRedrawer, PairEncoder
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.redraw_module import RedrawModule
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks

__all__ = [
    "Conv4",
    "DeformationRedrawer",
    "DrawnSplit",
    "EpisodeShape",
    "Episodes",
    "EpisodicDataModule",
    "FromDataset",
    "Glyphs",
    "ImageDataModule",
    "ImageFolder",
    "MetaModule",
    "PairEncoder",
    "ProtoNet",
    "RealTasks",
    "Redraw",
    "RedrawModule",
    "RedrawnTasks",
    "load",
]
