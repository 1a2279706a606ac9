"""Does a better generator make a better learner? Meta-train against one generator at several ages: make generator-ages.

python scripts/generator_ages.py --data omniglot_minimal --out docs/generator-ages.md

Runs the comparison of configs/compare/generator_ages.yaml, or another one whose arms name their generator by
`data.generator`; measures each of these generators by `genmeta validate`; writes a table of both, and a picture of
metric against accuracy. Runs that are finished are not repeated.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from table_of_runs import run_or_stop, write

from genmeta.cli.training import checked
from genmeta.errors import UserError
from genmeta.evaluation.tables import half_range, markdown_table, percent
from genmeta.experiments.checks import check_comparison
from genmeta.experiments.plan import Layout, Plan, make_plan
from genmeta.experiments.results import Arm, paired
from genmeta.experiments.run import Run
from genmeta.experiments.settings import read_on
from genmeta.experiments.write import write_comparison
from genmeta.shipped import config_file

METRICS = {"fid": ("FID ↓", 2), "coverage": ("coverage ↑", 2), "recognisability": ("recognisability ↑", 2)}
Metrics = Mapping[str, list[dict]]
"""Of the generators of each seed, by arm."""


def main(args: list[str] | None = None) -> None:
    """Run what is missing, then write the table and the picture."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", type=config_file, default=config_file("configs/compare/generator_ages.yaml"))
    made.add_argument("--data", help="a YAML of configs/data or a path, in place of the comparison's")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    made.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of all comparisons")
    made.add_argument("--out", type=Path, help="Markdown file, its picture goes to pictures/ beside it; printed only")
    options = made.parse_args(args)
    try:
        found = check_comparison(read_on(options.config, options.data), checked)
    except UserError as error:
        sys.exit(f"generator_ages: error: {error}")
    settings, folder = found.settings, options.runs / found.settings.name
    plan = make_plan(found, Layout(folder))
    measures = measurements(plan, folder)
    run_or_stop([*plan.runs, *measures.values()], options.workers)
    compared, points = write_comparison(settings, plan, folder)
    metrics: dict[str, list[dict]] = {}
    for (arm, _), run in measures.items():
        metrics.setdefault(arm, []).append(run.summary["report"])
    text = f"{table(metrics, points[None], settings.control)}\n\nMetrics ± half their range over seeds.\n\n{compared}"
    if options.out:
        picture = options.out.parent / "pictures" / f"{options.out.stem}.png"
        draw(metrics, points[None], settings.control, picture)
        text += f"\n![FID against accuracy](pictures/{picture.name})\n"
    write(text, options.out)


def measurements(plan: Plan, folder: Path) -> dict[tuple[str, int], Run]:
    """Return what measures the generator of each training that names one, by arm and seed."""
    found = {}
    for (_, arm, seed), fit in plan.fits.items():
        for checkpoint in (a.partition("=")[2] for a in fit.args if a.startswith("--data.generator=")):
            [generator] = fit.after
            args = ("validate", *generator.args[1:], f"--ckpt_path={checkpoint}")
            found[arm, seed] = Run(f"{arm}-generator-seed{seed}", args, str(folder), (generator,))
    return found


def table(metrics: Metrics, arms: Mapping[str, Arm], control: str) -> str:
    """Return the Markdown table: means over seeds; metrics ± half their range, accuracies and paired differences from
    the control ± their 95 % interval over seeds.
    """
    shapes = arms[control].shapes
    head = ["generator", *(name for name, _ in METRICS.values())]
    rows = [[*head, *(cell for s in shapes for cell in (f"{s} (%)", f"{s} − {arms[control].title}"))]]
    for name, arm in arms.items():
        cells = [
            half_range([one[key] for one in metrics.get(name, [])], digits) for key, (_, digits) in METRICS.items()
        ]
        differences = {
            one.shape: percent(one.difference, one.ci95_seeds, sign="+") for one in paired(arms, name, control)
        }
        for shape in shapes:
            cells += [percent(*arm.over_seeds(shape)), "" if name == control else differences[shape]]
        rows.append([arm.title, *cells])
    return markdown_table(rows)


def draw(metrics: Metrics, arms: Mapping[str, Arm], control: str, path: Path) -> None:
    """Draw FID against accuracy: a dot a run, means with their intervals, and the control's line."""
    from matplotlib.figure import Figure  # here: slow to import

    shapes = arms[control].shapes
    figure = Figure(figsize=(5 * len(shapes), 4), layout="constrained")
    for panel, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        middle, half = (100 * value for value in arms[control].over_seeds(shape))
        panel.axhline(middle, color="tab:blue", label=arms[control].title)
        panel.axhspan(middle - half, middle + half, color="tab:blue", alpha=0.12, linewidth=0)
        for name, of_generators in metrics.items():
            arm, fid = arms[name], [one["fid"] for one in of_generators]
            panel.plot(fid, [100 * value for value in arm.means(shape)], ".", color="tab:orange", alpha=0.5)
            middle, half = (100 * value for value in arm.over_seeds(shape))
            panel.errorbar(mean(fid), middle, half, fmt="o", color="tab:orange", capsize=3)
            panel.annotate(arm.title, (mean(fid), middle), xytext=(5, 5), textcoords="offset points", fontsize=9)
        panel.set(xlabel="FID of the generator (log)", ylabel=f"{shape} test accuracy (%)", xscale="log")
        panel.invert_xaxis()  # better to the right
        panel.legend(loc="best", fontsize=8)
    figure.suptitle("One generator at several ages (steps): mean and 95 % interval over seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
