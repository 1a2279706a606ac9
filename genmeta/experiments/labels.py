"""Labels of the runs of a comparison, which dashboards group by: arm, experiment, version of the experiment."""

import hashlib
from collections.abc import Iterable, Mapping

from genmeta.experiments.run import Run


def version_of(runs: Iterable[Run]) -> str:
    """Return ten hex digits that identify a set of runs: other commands or YAMLs give other digits."""
    return hashlib.sha256("\n".join(sorted(str(run.folder.name) for run in runs)).encode()).hexdigest()[:10]


def labelled(
    runs: Iterable[Run], experiment: str, arm_of: Mapping[Run, str], titles: Mapping[str, str], *more: str
) -> list[Run]:
    """Return the runs with labels, in the same order. Labels do not change a run's folder.

    Args:
        runs: of a comparison or an experiment.
        experiment: its name and version, `policies/3f2a…`.
        arm_of: the arm of each run; a generator has none.
        titles: of the arms, in words; their names by default.
        more: options for all runs.
    """
    with_labels = []
    for run in runs:
        labels = [f"--run.experiment={experiment}", *more]
        if arm := arm_of.get(run):
            labels += [f"--run.arm={arm}", f"--run.arm_title={titles.get(arm, arm)}"]
        with_labels.append(run.labelled(labels))
    return with_labels
