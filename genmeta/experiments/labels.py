"""What the runs of a comparison are called, so that dashboards can group them: arm, experiment and its version."""

import hashlib
from collections.abc import Iterable, Mapping

from genmeta.experiments.run import Run


def version_of(runs: Iterable[Run]) -> str:
    """Return ten hex digits that stand for a set of runs: other commands or YAMLs are another version."""
    return hashlib.sha256("\n".join(sorted(str(run.folder.name) for run in runs)).encode()).hexdigest()[:10]


def labelled(
    runs: Iterable[Run], experiment: str, arm_of: Mapping[Run, str], titles: Mapping[str, str], *more: str
) -> list[Run]:
    """Return the runs with labels, in their order; they stay the same runs, in the same folders.

    Args:
        runs: of a comparison or an experiment.
        experiment: its name and version, `policies/3f2a…`.
        arm_of: arm of each run; runs that are of none, such as generators, are left out.
        titles: of the arms, in words.
        more: options for all of them.
    """
    found = []
    for run in runs:
        labels = [f"--run.experiment={experiment}", *more]
        if arm := arm_of.get(run):
            labels += [f"--run.arm={arm}", f"--run.arm_title={titles[arm]}"]
        found.append(run.labelled(labels))
    return found
