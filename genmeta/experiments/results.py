"""The results of a comparison as one record. Tables, pictures, results.json and the report are made from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from genmeta.errors import UserError
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.statistics import (
    effect_size,
    holm,
    mean_and_t95,
    over_episodes,
    paired_bootstrap,
    paired_t_test,
)
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import code_commit
from genmeta.experiments.settings import Value
from genmeta.rng import make_rng


@dataclass(frozen=True)
class Arm:
    """An arm of one or several seeds, tested on the same episodes as all others: a row of a table.

    Attributes:
        title: in tables.
        accuracies: by name of the episodes (`5w1s`, `20w1s_within`) and by seed, the accuracy of each episode in
            [0, 1], in the order of the episodes.
        learner: name of the arm whose learners it tests with generated support images; its own by default.
        once: whether it was tested once for all seeds, so that it has no spread over them.
        training_seconds: of all its trainings, those of its generators too: mean over seeds; None if not known.
        fits, tests: folders of its runs by seed, relative to the comparison's folder.
    """

    title: str
    accuracies: Mapping[str, Mapping[int, Sequence[float]]]
    learner: str = ""
    once: bool = False
    training_seconds: float | None = None
    fits: Mapping[int, str] = field(default_factory=dict)
    tests: Mapping[int, str] = field(default_factory=dict)

    @property
    def shapes(self) -> list[str]:
        """Names of the test episodes."""
        return list(self.accuracies)

    def means(self, shape: str) -> list[float]:
        """Return the mean accuracy of each seed."""
        return [mean(values) for values in self.accuracies[shape].values()]

    def over_seeds(self, shape: str) -> tuple[float, float]:
        """Return the mean accuracy and the half width of its 95 % interval over seeds (Student's t); infinite for one
        seed, and for an arm that was tested once.
        """
        return mean_and_t95(self.means(shape)[:1] if self.once else self.means(shape))

    def over_episodes(self, shape: str) -> tuple[float, float]:
        """Return the mean accuracy and the half width of its 95 % interval over episodes, of the seeds' means."""
        return mean_and_ci95(over_episodes(list(self.accuracies[shape].values())))

    def as_json(self) -> dict[str, Any]:
        """Return its entry in results.json."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "") and value is not False}


def full_title(arm: Arm, arms: Mapping[str, Arm]) -> str:
    """Return an arm's title. If it tests the learners of another of `arms`, that arm's title comes first."""
    return f"{arms[arm.learner].title} {arm.title}" if arm.learner in arms else arm.title


def arm_of_json(content: Mapping[str, Any]) -> Arm:
    """Return an arm of results.json. An entry that `Arm.as_json` did not write raises some exception of Python."""
    known = {name: value for name, value in content.items() if name in Arm.__dataclass_fields__}
    return Arm(**{**known, "title": str(content.get("title", ""))})


def read_arm(
    title: str,
    tests: Mapping[int, Run],
    fits: Mapping[int, Run],
    folder: Path,
    names: Mapping[str, str] | None = None,
    **more: Any,
) -> Arm:
    """Return an arm from its finished tests.

    Args:
        title: of the arm.
        tests: by seed.
        fits: trainings by seed; empty if there is nothing to train.
        folder: of the comparison.
        names: which episodes count, and what the table calls them; all episodes by default.
        more: attributes of `Arm`.
    """
    accuracies = {seed: run.summary["episode_accuracies"] for seed, run in tests.items()}
    names = names or {name: name for name in next(iter(accuracies.values()))}
    return Arm(
        title,
        {shape: {seed: by_name[name] for seed, by_name in accuracies.items()} for name, shape in names.items()},
        fits={seed: str(run.folder.relative_to(folder)) for seed, run in fits.items()},
        tests={seed: str(run.folder.relative_to(folder)) for seed, run in tests.items()},
        **more,
    )


def facts(tests: Sequence[Run], runs: Iterable[Run]) -> dict[str, Any]:
    """Return the facts of all runs for results.json: the split, the hashes of the episodes, time, code.

    Raises:
        UserError: tests were not on the same episodes.
    """
    check_same_episodes({run.label: run.summary for run in tests})
    some, summaries = tests[0].summary, [run.summary for run in runs]
    return {
        "split": some["split"],
        "episodes": {name.removeprefix("test/"): digest for name, digest in some["episodes"].items()},
        "seconds": round(sum(summary["seconds"] for summary in summaries), 1),
        **({"debug": True} if any(summary.get("debug") for summary in summaries) else {}),
        "commit": ", ".join(sorted({str(summary.get("commit", code_commit())) for summary in summaries})),
    }


def check_same_episodes(tests: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that tests used the same episodes of the same images, in all shapes that they share.

    Args:
        tests: contents of `run.json`, by name.

    Raises:
        UserError: they did not, so they do not compare.
    """
    first, *others = tests
    known = _hashes(tests[first])
    for name in others:
        hashes = _hashes(tests[name])
        both = hashes.keys() & known.keys()
        if not both - {"images"} or any(hashes[what] != known[what] for what in both):
            raise UserError(f"'{name}' and '{first}' were tested on different episodes; they do not compare")


def _hashes(summary: Mapping[str, Any]) -> dict[str, str]:
    content = summary.get("split", {}).get("content")
    return {**summary["episodes"], **({"images": content} if content else {})}


def check_pairs(arms: Mapping[str, Arm]) -> None:
    """Check that all arms have the same seeds, and that all tests are of the same number of episodes.

    Raises:
        UserError: they do not pair.
    """
    first, *others = arms
    for name in others:
        for shape, expected in arms[first].accuracies.items():
            by_seed = arms[name].accuracies.get(shape, {})
            if list(by_seed) != list(expected):
                raise UserError(f"arm '{name}' has seeds {list(by_seed)}, '{first}' {list(expected)}; they do not pair")
            numbers = {len(values) for values in (*by_seed.values(), *expected.values())}
            if len(numbers) > 1:
                raise UserError(
                    f"'{name}' and '{first}' were tested on {' and '.join(map(str, sorted(numbers)))} episodes of "
                    f"{shape}; they do not pair"
                )


@dataclass(frozen=True)
class Difference:
    """The paired difference of two arms on one kind of episodes; accuracies and their differences are in [0, 1].

    Pairing removes the difficulty of the episodes from the comparison.

    Attributes:
        arm, control: names.
        shape: name of the episodes.
        difference: mean of arm − control, over the same seeds and the same episodes.
        ci95_episodes: half width of its 95 % interval over episodes (Student's t), for these trained learners; None for
            one episode.
        ci95_seeds: half width of its 95 % interval over seeds; None for one seed, and for two arms that were each
            tested once for all seeds.
        p: of the paired t-test over episodes (means over seeds).
        p_holm: the same, corrected for all differences in one table.
        p_bootstrap: of the paired bootstrap over episodes.
        p_seeds: of the paired t-test over seeds; None where `ci95_seeds` is.
        effect_size: Cohen's d_z over episodes; None if it is infinite (all differences equal and not 0).
        of_seeds: the difference of each seed.
        value: of the axis, if the comparison has one.
    """

    arm: str
    control: str
    shape: str
    difference: float
    ci95_episodes: float | None
    ci95_seeds: float | None
    p: float
    p_holm: float
    p_bootstrap: float
    p_seeds: float | None
    effect_size: float | None
    of_seeds: Mapping[int, float]
    value: Value = None


def paired(arms: Mapping[str, Arm], arm: str, control: str, value: Value = None) -> list[Difference]:
    """Return how an arm differs from another, for each kind of episodes that both were tested on; p is uncorrected."""
    differences = []
    for shape in (shape for shape in arms[arm].shapes if shape in arms[control].shapes):
        first, second = (arms[name].accuracies[shape] for name in (arm, control))
        # a test that was cut short (limit_test_batches) has fewer episodes, the same first ones
        deltas = {
            seed: [a - b for a, b in zip(first[seed], second[seed], strict=False)] for seed in first if seed in second
        }
        values, seeds = over_episodes(list(deltas.values())), [mean(of_seed) for of_seed in deltas.values()]
        compared = seeds[:1] if arms[arm].once and arms[control].once else seeds  # one test each, repeated
        middle, half = mean_and_t95(values)
        p = paired_t_test(values)
        differences.append(
            Difference(
                arm=arm,
                control=control,
                shape=shape,
                difference=middle,
                ci95_episodes=_finite(half),
                ci95_seeds=_finite(mean_and_t95(compared)[1]),
                p=p,
                p_holm=p,
                p_bootstrap=paired_bootstrap(values, make_rng("bootstrap", arm, shape)),
                p_seeds=paired_t_test(compared) if len(compared) > 1 else None,
                effect_size=_finite(effect_size(values)),
                of_seeds=dict(zip(deltas, seeds, strict=True)),
                value=value,
            )
        )
    return differences


def against_control(arms: Mapping[str, Arm], control: str, value: Value = None) -> list[Difference]:
    """Return how each arm differs from the control, sorted by the kind of episodes; p is uncorrected.

    Raises:
        UserError: arms do not pair (`check_pairs`).
    """
    check_pairs(arms)
    differences = [one for arm in arms if arm != control for one in paired(arms, arm, control, value)]
    return sorted(differences, key=lambda one: arms[control].shapes.index(one.shape))


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences with their p-values corrected (Holm) for all of them together."""
    return [replace(d, p_holm=p) for d, p in zip(differences, holm([d.p for d in differences]), strict=True)]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
