"""What `genmeta compare` writes of a finished grid: results.md, .csv, .tex, .png and .json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from genmeta.cli.compare_grid import Grid
from genmeta.cli.compare_settings import CompareSettings
from genmeta.cli.run_folder import banner, code_commit
from genmeta.evaluation.against_control import Difference, check_comparable, corrected, differences, verdict
from genmeta.evaluation.comparison_pictures import draw_arms, draw_curves
from genmeta.evaluation.comparison_tables import Points, as_csv, as_latex, markdown
from genmeta.evaluation.statistics import SURE


def write_results(settings: CompareSettings, grid: Grid, folder: Path) -> str:
    """Write the results of a finished grid into its folder; return the Markdown page.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    titles, axis = settings.titles(), settings.axis
    values = list(axis.values) if axis else [None]
    found = {value: grid.found(value, titles, settings.seeds) for value in values}
    check_comparable({f"{name} at {value}": arm for value, arms in found.items() for name, arm in arms.items()})
    all_differences = corrected(
        [replace(d, value=value) for value, arms in found.items() for d in differences(arms, settings.control)]
    )
    label = (axis.title or axis.option) if axis else ""
    words = "" if axis else verdict(all_differences, titles, len(settings.seeds), settings.part)
    results = _results(settings, grid, found, all_differences, words, folder)
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
    settings: CompareSettings, grid: Grid, found: Points, of_all: Sequence[Difference], words: str, folder: Path
) -> dict[str, Any]:
    """Return what `results.json` says; paths are relative to its folder."""
    some = next(iter(grid.tests.values())).summary
    summaries = [run.summary for run in grid.runs]
    axis = settings.axis
    results: dict[str, Any] = {
        "kind": "curves" if axis else "comparison",
        "name": settings.name,
        "data": settings.config("data").stem,
        "learner": settings.config("learner").stem,
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
                    str(s): str(grid.fits[value, name, s].folder.relative_to(folder))
                    for s in arm.seeds
                    if (value, name, s) in grid.fits
                },
                "tests": {str(s): str(grid.tests[value, name, s].folder.relative_to(folder)) for s in arm.seeds},
            }
            for name, arm in arms.items()
        }
        for value, arms in found.items()
    ]
    entries = [asdict(d) for d in of_all]
    if axis:
        results["over"] = {"option": axis.option, "title": axis.title or axis.option, "values": axis.values}
        splits = [grid.tests[value, settings.control, settings.seeds[0]].summary["split"] for value in axis.values]
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
