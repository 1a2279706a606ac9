"""What `genmeta compare` writes of a finished grid: results.md, .csv, .tex, .png and .json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from genmeta.evaluation.against_control import Difference, check_comparable, corrected, differences, verdict
from genmeta.evaluation.comparison import Arm, SeedsOfArm, hashes_of
from genmeta.evaluation.comparison_pictures import draw_arms, draw_curves
from genmeta.evaluation.comparison_tables import Points, as_csv, as_latex, markdown
from genmeta.evaluation.statistics import SURE
from genmeta.experiments.plan import Plan
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import banner, code_commit
from genmeta.experiments.settings import CompareSettings, Value


def write_results(settings: CompareSettings, plan: Plan, folder: Path) -> str:
    """Write the results of a finished grid into its folder; return the Markdown page.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    titles, axis = {name: arm.title for name, arm in settings.arms.items()}, settings.over
    found = {value: _found(plan, value, titles, settings.seeds) for value in settings.values}
    check_comparable({f"{name} at {value}": arm for value, arms in found.items() for name, arm in arms.items()})
    all_differences = corrected(
        [replace(d, value=value) for value, arms in found.items() for d in differences(arms, settings.control)]
    )
    label = axis.title if axis else ""
    words = "" if axis else verdict(all_differences, titles, len(settings.seeds), settings.part)
    results = _results(settings, plan, found, all_differences, words, folder)
    text = markdown(found, all_differences, titles, words, _notes(settings, results), label)
    text = banner(results) + text
    if axis:
        draw_curves(found, label, folder / "results.png")
    else:
        draw_arms(found[None], settings.control, folder / "results.png")
    (folder / "results.md").write_text(f"{text}\n![accuracies](results.png)\n")
    (folder / "results.csv").write_text(as_csv(found, all_differences))
    caption = (
        f"{results['learner']} on {results['data']}: accuracy, mean ± 95 % interval over {len(settings.seeds)} seeds; "
        f"* differs from {titles[settings.control]} (p < {SURE}, Holm)"
    )
    (folder / "results.tex").write_text(as_latex(found, all_differences, label, caption))
    part = folder / ".results.json.part"
    part.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    part.replace(folder / "results.json")
    return text


def _results(
    settings: CompareSettings, plan: Plan, found: Points, of_all: Sequence[Difference], words: str, folder: Path
) -> dict[str, Any]:
    """Return what `results.json` says; paths are relative to its folder."""
    some = next(iter(plan.tests.values())).summary
    summaries = [run.summary for run in plan.runs]
    axis = settings.over
    results: dict[str, Any] = {
        "kind": "curves" if axis else "comparison",
        "name": settings.name,
        "data": Path(settings.data).stem,
        "learner": Path(settings.learner).stem,
        "control": settings.control,
        "seeds": settings.seeds,
        "part": settings.part,
        "split": some["split"],
        "episodes": {name.removeprefix("test/"): digest for name, digest in some["episodes"].items()},
        "seconds": round(sum(summary["seconds"] for summary in summaries), 1),
        **({"debug": True} if any(summary.get("debug") for summary in summaries) else {}),
        "commit": ", ".join(sorted({str(summary.get("commit", code_commit())) for summary in summaries})),
    }
    by_value = [
        {
            name: {
                "title": arm.title,
                "training_seconds": arm.training_seconds,
                "accuracies": {
                    shape: dict(zip(map(str, arm.seeds), arm.accuracies(shape), strict=True)) for shape in arm.shapes
                },
                "fits": {
                    str(s): str(plan.fits[value, name, s].folder.relative_to(folder))
                    for s in arm.seeds
                    if (value, name, s) in plan.fits
                },
                "tests": {str(s): str(plan.tests[value, name, s].folder.relative_to(folder)) for s in arm.seeds},
            }
            for name, arm in arms.items()
        }
        for value, arms in found.items()
    ]
    entries = [asdict(d) for d in of_all]
    if axis:
        results["over"] = {"option": axis.option, "title": axis.title, "values": axis.values}
        splits = [plan.tests[value, settings.control, settings.seeds[0]].summary["split"] for value in axis.values]
        results["points"] = [
            {"value": value, "split": split, "arms": arms}
            for value, split, arms in zip(axis.values, splits, by_value, strict=True)
        ]
    else:
        results["arms"] = by_value[0]
        for entry in entries:
            del entry["value"]
    return {**results, "comparisons": entries, "sentence": words}


def _notes(settings: CompareSettings, results: dict[str, Any]) -> str:
    """Return what the numbers are of."""
    arms = results["points"][0]["arms"] if settings.over else results["arms"]
    n_episodes = {shape: len(next(iter(a.values()))) for shape, a in next(iter(arms.values()))["accuracies"].items()}
    episodes = ", ".join(f"{n} of {shape} ({results['episodes'][shape]})" for shape, n in n_episodes.items())
    seeds = ", ".join(map(str, settings.seeds))
    one_generator = settings.generator_seed is not None
    split = "" if settings.over else f", split {results['split']['name']} ({results['split']['hash']})"
    return (
        f"{results['learner']} on {results['data']}, seeds {seeds} "
        f"({'of learners; one generator for all' if one_generator else 'of generators and learners alike'}). "
        f"Accuracies in % on {'test' if settings.part == 'test' else 'validation'} classes{split}, the same episodes "
        f"in all rows: {episodes}. After the first ± half the 95 % interval over seeds (Student's t: how trainings "
        f"differ), after the second that over episodes; training: minutes of one core for a "
        f"seed, all that an arm is made of included. p: paired t-test over episodes (means over seeds); Holm: "
        f"corrected for all {len(results['comparisons'])} rows; bootstrap: paired, 10,000 resamples; seeds: paired "
        f"t-test over seeds; d_z: mean difference in standard deviations of the episodes' differences. All runs took "
        f"{results['seconds'] / 60:.0f} minutes of one core; code {results['commit']}."
    )


def _found(plan: Plan, value: Value, titles: Mapping[str, str], seeds: list[int]) -> dict[str, SeedsOfArm]:
    """Return what the tests of finished runs found at a value of the axis, by arm."""
    arms = {}
    for name, title in titles.items():
        tests = {seed: plan.tests[value, name, seed] for seed in seeds}
        summaries = {seed: test.summary for seed, test in tests.items()}
        arms[name] = SeedsOfArm(
            title,
            {
                seed: Arm(f"{name}, seed {seed}", summary["episode_accuracies"], hashes_of(summary))
                for seed, summary in summaries.items()
            },
            once=len(seeds) > 1 and len(set(tests.values())) == 1,
            training_seconds=round(mean(_training_seconds(test) for test in tests.values()), 1),
        )
    return arms


def _training_seconds(test: Run) -> float:
    """Return what the trainings took that a test's learner is made of: its own, those of its members, generators."""
    found: dict[Run, float] = {}
    new = list(test.after)
    while new:
        run = new.pop()
        if run not in found:
            found[run] = run.summary["seconds"]
            new += run.after
    return sum(found.values())
