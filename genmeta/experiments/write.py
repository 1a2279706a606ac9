"""What comparisons write of finished runs: results.md, .csv, .tex, .png and, last, .json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from genmeta.evaluation.statistics import ALPHA
from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.pictures import draw_arms, draw_curves
from genmeta.experiments.plan import Plan
from genmeta.experiments.results import Arm, Difference, against_control, corrected, facts, read_arm
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import banner, write_whole
from genmeta.experiments.settings import CompareSettings, Value
from genmeta.experiments.tables import Points, accuracy_rows, as_csv, as_latex, difference_rows
from genmeta.experiments.words import verdict


def write_comparison(settings: CompareSettings, plan: Plan, folder: Path) -> str:
    """Write the results of a finished comparison into its folder; return the Markdown page.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    axis, of_runs = settings.over, facts(list(plan.tests.values()), plan.runs)
    found = {value: _arms(settings, plan, value, folder) for value in settings.values}
    differences = corrected(
        [one for value, arms in found.items() for one in against_control(arms, settings.control, value)]
    )
    label, titles = (axis.title if axis else ""), {name: arm.title for name, arm in settings.arms.items()}
    words = "" if axis else verdict(differences, found[None], len(settings.seeds), settings.part)
    results = _results(settings, plan, found, differences) | of_runs | {"sentence": words}
    tables = [markdown_table(accuracy_rows(found, label)), markdown_table(difference_rows(differences, titles, label))]
    text = (
        banner(results) + "\n\n".join([*([words] if words else []), *tables, _notes(settings, results, found)]) + "\n"
    )
    if axis:
        draw_curves(found, label, folder / "results.png")
    else:
        draw_arms(found[None], settings.control, folder / "results.png")
    (folder / "results.md").write_text(f"{text}\n![accuracies](results.png)\n")
    (folder / "results.csv").write_text(as_csv(found, differences))
    caption = (
        f"{results['learner']} on {results['data']}: accuracy, mean ± 95 % interval over {len(settings.seeds)} seeds; "
        f"* differs from {titles[settings.control]} (p < {ALPHA}, Holm)"
    )
    (folder / "results.tex").write_text(as_latex(found, differences, label, caption))
    write_json(folder, results)
    return text


def write_json(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json, which comes last: what has it is finished."""
    write_whole(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")


def _arms(settings: CompareSettings, plan: Plan, value: Value, folder: Path) -> dict[str, Arm]:
    """Return what the tests found at a value of the axis, by arm."""
    arms = {}
    for name, arm in settings.arms.items():
        tests = {seed: plan.tests[value, name, seed] for seed in settings.seeds}
        fits = {seed: plan.fits[value, name, seed] for seed in settings.seeds if (value, name, seed) in plan.fits}
        once = len(tests) > 1 and len(set(tests.values())) == 1
        seconds = round(mean(_training_seconds(test) for test in tests.values()), 1)
        arms[name] = read_arm(arm.title, tests, fits, folder, once=once, training_seconds=seconds)
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


def _results(settings: CompareSettings, plan: Plan, found: Points, differences: Sequence[Difference]) -> dict[str, Any]:
    """Return what results.json says, but for what all runs have in common."""
    axis, by_value = settings.over, {v: {name: arm.as_json() for name, arm in of.items()} for v, of in found.items()}
    results: dict[str, Any] = {
        "kind": "curves" if axis else "comparison",
        "name": settings.name,
        "data": Path(settings.data).stem,
        "learner": Path(settings.learner).stem,
        "control": settings.control,
        "seeds": settings.seeds,
        "part": settings.part,
        "comparisons": [asdict(one) for one in differences],
    }
    if not axis:
        return results | {"arms": by_value[None]}
    splits = {v: plan.tests[v, settings.control, settings.seeds[0]].summary["split"] for v in axis.values}
    points = [{"value": value, "split": splits[value], "arms": by_value[value]} for value in axis.values]
    return results | {"over": asdict(axis), "points": points}


def _notes(settings: CompareSettings, results: Mapping[str, Any], found: Points) -> str:
    """Return what the numbers are of."""
    some = next(iter(next(iter(found.values())).values()))
    n_episodes = {shape: len(next(iter(of_seeds.values()))) for shape, of_seeds in some.accuracies.items()}
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
