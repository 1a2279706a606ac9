"""Errors on the runs of the Omniglot Challenge, beside the published ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genmeta.data.challenge import ChallengeRun, resized
from genmeta.episode import EpisodeBatch
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.tables import markdown_table, percent
from genmeta.learners.learner import Learner

# Error in %, what it was trained on, method. Collected by Lake et al., Science 2015, and Lake, Salakhutdinov and
# Tenenbaum, "The Omniglot challenge: a 3-year progress report", 2019; the last by Yu et al.
PUBLISHED = (
    ("4.5", "–", "people"),
    ("3.3", "30 alphabets, with strokes", "Bayesian program learning"),
    ("4.3 / 4.0", "5 alphabets (set 1 / 2), with strokes", "Bayesian program learning"),
    ("8.0", "30 alphabets", "Siamese net with augmentation"),
    ("13.5", "30 alphabets", "convolutional net"),
    ("24.0 / 22.3", "5 alphabets (set 1 / 2)", "convolutional net"),
    ("13.7", "30 alphabets", "prototypical net"),
    ("30.1", "5 alphabets", "prototypical net"),
    ("38.8", "nothing", "modified Hausdorff distance"),
    ("6.75", "nothing", "distortable canvas (Yu et al.)"),
)
OFFICIAL_HAUSDORFF = 0.388  # error on the official runs; another figure means other runs


@dataclass(frozen=True)
class Entry:
    """A row of the table: method, training data, error on each run in [0, 1]."""

    method: str
    trained_on: str
    errors: Sequence[float]


def run_errors(learner: Learner, runs: Sequence[ChallengeRun], size: int | None = None) -> list[float]:
    """Return the error of a learner on each run, in [0, 1]; a run is one task of one shot.

    Args:
        learner: in evaluation mode.
        runs: as they are read.
        size: side of the images that the learner sees; their own if None.
    """
    errors = []
    for run in runs:
        support, query = (
            (images[:, None] if size is None else resized(images, size)) for images in (run.training, run.test)
        )
        n = len(support)
        batch = EpisodeBatch(
            support_x=support[None].float() / 255,
            support_y=torch.arange(n)[None],
            query_x=query[None].float() / 255,
            query_y=run.answers[None],
            is_generated=torch.zeros(1, n, dtype=torch.bool),
        )
        with torch.inference_mode():
            predictions = learner(batch).argmax(2)
        errors.append(float((predictions != batch.query_y).double().mean()))
    return errors


def per_run(runs: Sequence[ChallengeRun], entries: Sequence[Entry]) -> str:
    """Return one line a run with the error of each entry in percent."""
    lines = ["       " + "  ".join(entry.method for entry in entries)]
    for number, run in enumerate(runs):
        cells = [f"{100 * entry.errors[number]:.1f} %".rjust(len(entry.method)) for entry in entries]
        lines.append(f"{run.name:<7}" + "  ".join(cells))
    return "\n".join(lines)


def overall(entries: Sequence[Entry]) -> str:
    """Return the overall errors with their 95 % interval over runs, and the published ones, as a Markdown table."""
    rows = [("error (%)", "trained on", "method")]
    rows += [(percent(*mean_and_ci95(entry.errors)), entry.trained_on, entry.method) for entry in entries]
    rows += [(error, trained_on, f"published: {method}") for error, trained_on, method in PUBLISHED]
    return markdown_table(rows)


def remark(runs: Sequence[ChallengeRun], hausdorff: Entry) -> str:
    """Return a sentence on whether the runs are the official ones, by the error of the Hausdorff distance."""
    error = sum(hausdorff.errors) / len(runs)
    official = len(runs) == 20 and all(len(run.test) == 20 for run in runs) and abs(error - OFFICIAL_HAUSDORFF) < 1e-3
    if official:
        return "The modified Hausdorff distance comes out at 38.8 %, as published: the runs compare with those rows."
    return (
        f"The modified Hausdorff distance comes out at {100 * error:.1f} % on {len(runs)} runs, not at the published "
        f"38.8 % on 20: these are not the official runs, and do not compare with the published rows."
    )
