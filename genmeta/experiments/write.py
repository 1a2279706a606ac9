"""Writes the results of finished runs: results.md, .csv, .tex, .png and, last, .json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from genmeta.evaluation.statistics import ALPHA
from genmeta.evaluation.tables import markdown_table, shape_title
from genmeta.experiments.answer import answer_of, dot_plot
from genmeta.experiments.pictures import draw_arms, draw_curves
from genmeta.experiments.plan import Plan
from genmeta.experiments.results import Arm, Difference, against_control, corrected, facts, read_arm
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import banner, write_whole
from genmeta.experiments.settings import CompareSettings, Value
from genmeta.experiments.subject import differences_of, page_of
from genmeta.experiments.tables import Points, accuracy_rows, as_csv, as_latex, difference_rows
from genmeta.experiments.words import credit, verdict


def write_comparison(settings: CompareSettings, plan: Plan, folder: Path) -> tuple[str, Points]:
    """Write the results of a finished comparison into its folder; return the Markdown page and the arms in it.

    A comparison with a subject has no .csv and .tex, since an arm is in several differences.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    facts_of_runs = facts(list(plan.tests.values()), plan.runs)
    points = {value: _arms(settings, plan, value, folder) for value in settings.values}
    if settings.subject:
        differences = differences_of(settings.subject, points[None])
        words = credit([one for one in differences if one.arm == settings.subject], points[None])
    else:
        uncorrected = [d for value, arms in points.items() for d in against_control(arms, settings.control, value)]
        differences = corrected(uncorrected)
        words = "" if settings.over else verdict(differences, points[None], len(settings.seeds), settings.part)
    results = _results(settings, plan, points, differences) | facts_of_runs
    results |= {"sentence": words, **({} if settings.over else _answer(settings, points[None]))}
    if settings.subject:
        page = page_of(settings, results, differences, points[None], bool(plan.generators))
        text = banner(results) + _opening(results, points[None]) + page
        draw_arms(points[None], settings.controls, folder / "results.png")
        write_whole(folder / "results.md", f"{text}\n![accuracies](results.png)\n")
    else:
        text = _write_tables(settings, results, points, differences, folder)
    # last: a folder with results.json is finished
    write_whole(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return text, points


def _write_tables(
    settings: CompareSettings,
    results: Mapping[str, Any],
    points: Points,
    differences: Sequence[Difference],
    folder: Path,
) -> str:
    """Write results.md, .csv, .tex and .png of arms that are compared with one control; return the page."""
    label = settings.over.title if settings.over else ""
    titles = settings.titles
    words = [results["sentence"]] if results["sentence"] else []
    tables = [markdown_table(accuracy_rows(points, label)), markdown_table(difference_rows(differences, titles, label))]
    opening = "" if settings.over else _opening(results, points[None])
    text = banner(results) + opening + "\n\n".join([*words, *tables, _notes(settings, results, points)]) + "\n"
    if settings.over:
        draw_curves(points, label, folder / "results.png")
    else:
        draw_arms(points[None], settings.controls, folder / "results.png")
    (folder / "results.md").write_text(f"{text}\n![accuracies](results.png)\n")
    (folder / "results.csv").write_text(as_csv(points, differences))
    caption = (
        f"{results['learner']} on {results['data']}: accuracy, mean ± 95 % interval over {len(settings.seeds)} seeds; "
        f"* differs from {titles[settings.control]} (p < {ALPHA}, Holm)"
    )
    (folder / "results.tex").write_text(as_latex(points, differences, label, caption))
    return text


def _answer(settings: CompareSettings, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """Return the entries of results.json on the answer: a sentence on the first kind of episodes, and the controls."""
    shape = arms[settings.control].shapes[0]
    return {"answer": answer_of(arms, settings.controls, shape).sentence, "controls": settings.controls}


def _opening(results: Mapping[str, Any], arms: Mapping[str, Arm]) -> str:
    """Return the top of the page: the answer, and a plot for each kind of episodes."""
    controls = results["controls"]
    shapes = arms[results["control"]].shapes
    plots = [dot_plot(arms, controls, shape) for shape in shapes]
    drawn = [f"{shape_title(plot.shape)}, accuracy in %\n{plot.as_text()}" for plot in plots]
    legend = f"○ control, │ the best of them, ─ {plots[0].interval}"
    return f"{results['answer']}\n\n```\n" + "\n\n".join([*drawn, legend]) + "\n```\n\n"


def _arms(settings: CompareSettings, plan: Plan, value: Value, folder: Path) -> dict[str, Arm]:
    """Return the arms at a value of the axis, by name."""
    arms = {}
    for name, arm in settings.arms.items():
        tests = {seed: plan.tests[value, name, seed] for seed in settings.seeds}
        fits = {seed: plan.fits[value, name, seed] for seed in settings.seeds if (value, name, seed) in plan.fits}
        once = len(tests) > 1 and len(set(tests.values())) == 1
        seconds = round(mean(_training_seconds(test) for test in tests.values()), 1)
        names = plan.names.get(name)
        more: dict[str, Any] = {"once": once, "training_seconds": seconds, "learner": arm.of}
        arms[name] = read_arm(arm.title, tests, fits, folder, names, **more)
    return arms


def _training_seconds(test: Run) -> float:
    """Return the seconds of all trainings that a test needs: of its learner, of the learner's parts, of generators."""
    seconds: dict[Run, float] = {}
    new = list(test.after)
    while new:
        run = new.pop()
        if run not in seconds:
            seconds[run] = run.summary["seconds"]
            new += run.after
    return sum(seconds.values())


def _results(
    settings: CompareSettings, plan: Plan, points: Points, differences: Sequence[Difference]
) -> dict[str, Any]:
    """Return the content of results.json, without the facts of all runs."""
    axis = settings.over
    by_value = {v: {name: arm.as_json() for name, arm in arms.items()} for v, arms in points.items()}
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
    entries = [{"value": value, "split": splits[value], "arms": by_value[value]} for value in axis.values]
    return results | {"over": asdict(axis), "points": entries}


def _notes(settings: CompareSettings, results: Mapping[str, Any], points: Points) -> str:
    """Return notes on the numbers."""
    some = next(iter(next(iter(points.values())).values()))
    n_episodes = {shape: len(next(iter(by_seed.values()))) for shape, by_seed in some.accuracies.items()}
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
