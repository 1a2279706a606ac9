"""Does a better generator make a better learner? Meta-train against one generator at several ages: make generator-ages.

Runs a comparison whose arms name their generator by `data.generator`, and measures each generator by `genmeta
validate`. Writes a table and a picture of both. Finished runs are not repeated.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from table_of_runs import parser, run_or_stop, write

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


def main(args: list[str] | None = None) -> None:
    """Run what is missing, then write the table and the picture."""
    made = parser(__doc__, "runs/compare", data=None)
    made.add_argument("--config", type=config_file, default="configs/compare/generator_ages.yaml")
    options = made.parse_args(args)
    try:
        comparison = check_comparison(read_on(options.config, options.data), checked)
    except UserError as error:
        sys.exit(f"generator_ages: error: {error}")
    settings, folder = comparison.settings, Path(options.runs) / comparison.settings.name
    plan = make_plan(comparison, Layout(folder, (*Layout.options, *options.options)))
    measures = measurements(plan, folder)
    arm_of = plan.arm_of | {run: arm for (arm, _), run in measures.items()}
    run_or_stop([*plan.runs, *measures.values()], options.workers, settings.name, arm_of, settings.titles)
    compared, points = write_comparison(settings, plan, folder)
    metrics = {arm: [run.summary["report"] for (its, _), run in measures.items() if its == arm] for arm, _ in measures}
    text = f"{table(metrics, points[None], settings.control)}\n\nMetrics ± half their range over seeds.\n\n{compared}"
    if options.out:
        draw(metrics, points[None], settings.control, options.out.parent / "pictures" / f"{options.out.stem}.png")
        text += f"\n![FID against accuracy](pictures/{options.out.stem}.png)\n"
    write(text, options.out)


def measurements(plan: Plan, folder: Path) -> dict[tuple[str, int], Run]:
    """Return by arm and seed the run that measures the generator of a training, where it names one."""
    runs = {}
    for (_, arm, seed), fit in plan.fits.items():
        for checkpoint in (a.partition("=")[2] for a in fit.args if a.startswith("--data.generator=")):
            [generator] = fit.after
            args = ("validate", *generator.args[1:], f"--ckpt_path={checkpoint}")
            runs[arm, seed] = Run(f"{arm}-generator-seed{seed}", args, str(folder), (generator,))
    return runs


def table(metrics: Mapping[str, list[dict]], arms: Mapping[str, Arm], control: str) -> str:
    """Return the Markdown table: means over seeds, metrics ± half their range, accuracies and differences ± 95 %."""
    heads = [cell for s in arms[control].shapes for cell in (f"{s} (%)", f"{s} − {arms[control].title}")]
    rows = [["generator", *(name for name, _ in METRICS.values()), *heads]]
    for name, arm in arms.items():
        cells = [half_range([one[k] for one in metrics.get(name, [])], digits) for k, (_, digits) in METRICS.items()]
        for one in paired(arms, name, control):
            change = "" if name == control else percent(one.difference, one.ci95_seeds, sign="+")
            cells += [percent(*arm.over_seeds(one.shape)), change]
        rows.append([arm.title, *cells])
    return markdown_table(rows)


def draw(metrics: Mapping[str, list[dict]], arms: Mapping[str, Arm], control: str, path: Path) -> None:
    """Draw FID against accuracy: a dot a run, means with their intervals, and the control's line."""
    from matplotlib.figure import Figure  # here: slow to import

    shapes = arms[control].shapes
    figure = Figure(figsize=(5 * len(shapes), 4), layout="constrained")
    for panel, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        middle, half = (100 * value for value in arms[control].over_seeds(shape))
        panel.axhline(middle, color="tab:blue", label=arms[control].title)
        panel.axhspan(middle - half, middle + half, color="tab:blue", alpha=0.12, linewidth=0)
        for name, of_seeds in metrics.items():
            arm, fid = arms[name], [one["fid"] for one in of_seeds]
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
