"""Does a better generator make a better learner? Meta-train against one generator at several ages: make generator-ages.

python scripts/generator_ages.py --data omniglot_minimal --ages 0 200 400 700 --seeds 0 1 2 --out docs/generator-ages.md

For each seed: a generator is trained once and kept at several ages (in steps; 0 is untrained; its best checkpoint is
the last row), each is measured by `genmeta validate`, a learner with the same seed is meta-trained against each, and
one on real tasks only; all are tested on the same episodes. Writes a table, and a picture of metric against accuracy.
Runs that are finished are not repeated. What stands after `--` are options of all the learners' runs, e.g.
`-- --data.train_tasks.share=1`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from genmeta.errors import UserError
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.tables import half_range, markdown_table, percent
from genmeta.experiments.execute import run_all
from genmeta.experiments.results import Arm, facts, paired, read_arm
from genmeta.experiments.run import Run
from genmeta.modules.keep_ages import age_checkpoint
from genmeta.shipped import find_config

ROOT = Path(__file__).parents[1]
METRICS = {"fid": ("FID ↓", 2), "coverage": ("coverage ↑", 2), "recognisability": ("recognisability ↑", 2)}
BEST, REAL = "best", "real tasks only"

Age = int | str
"""Steps, BEST, or REAL: no generator."""


def main(args: list[str] | None = None) -> None:
    """Run what is missing, then write the table and the picture."""
    options = parse(args)
    generators, measures, tests = grid(options)
    fits = [needed for test in tests.values() for needed in test.after]
    runs = [*generators.values(), *measures.values(), *fits, *tests.values()]
    if failed := run_all(runs, options.workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")
    of_runs = facts(list(tests.values()), runs)
    metrics: dict[Age, list[dict]] = {}
    for (age, _), run in measures.items():
        metrics.setdefault(age, []).append(run.summary["report"])
    ages = dict.fromkeys(age for age, _ in tests)
    arms = {
        str(age): read_arm(title(age), {seed: tests[age, seed] for seed in options.seeds}, {}, Path(options.runs))
        for age in ages
    }
    text = f"{table(metrics, arms)}\n\n{notes(arms, of_runs, fits, options)}\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        picture = options.out.parent / "pictures" / f"{options.out.stem}.png"
        draw(metrics, arms, picture)
        options.out.write_text(f"{text}\n![FID against accuracy](pictures/{picture.name})\n")


def parse(args: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data, or its path")
    add("--generator", default="vae", help="name of a YAML in configs/generator, or its path")
    add("--learner", default="protonet", help="name of a YAML in configs/learner, or its path")
    add(
        "--policy",
        nargs="+",
        default=["random_other"],
        help="names of YAMLs in configs/policy, or paths, laid over the learner's: its tasks must come from codes",
    )
    add("--ages", nargs="+", type=int, default=[0, 200, 400, 700], help="steps of the generator; its best comes last")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the generator and the learners")
    add("--workers", type=int, default=1, help="runs at the same time, each of one thread")
    add("--runs", default="runs", help="folder of all runs")
    add("--config", action="append", default=[], help="YAML laid over those of all runs")
    add("--out", type=Path, help="Markdown file, its picture goes to pictures/ beside it; printed only by default")
    add("options", nargs="*", help="more options of the learners' runs, after --")
    options = parser.parse_args(args)
    try:
        for kind in ("data", "generator", "learner"):
            setattr(options, kind, find_config(kind, getattr(options, kind)))
        options.policy = [find_config("policy", name) for name in options.policy]
    except UserError as error:
        parser.error(str(error))
    for path in map(Path, options.config):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    if len(options.seeds) < 2:
        parser.error("--seeds: an interval over training runs needs 2 seeds")
    return options


def grid(options: argparse.Namespace) -> tuple[dict[int, Run], dict[tuple[Age, int], Run], dict[tuple[Age, int], Run]]:
    """Return the generators' runs by seed, and by age and seed what measures them and what tests the learners."""
    name = f"{options.generator.stem}-{options.data.stem}"
    keep = [
        "--trainer.callbacks+=genmeta.modules.keep_ages.KeepAges",
        f"--trainer.callbacks.steps={sorted(set(options.ages))}",
    ]
    generators: dict[int, Run] = {}
    measures: dict[tuple[Age, int], Run] = {}
    tests: dict[tuple[Age, int], Run] = {}
    for seed in options.seeds:
        of_all = [f"--config={options.data}", *(f"--config={path}" for path in options.config)]
        last = ["--trainer.devices=1", "--run.wandb=off", f"--seed_everything={seed}"]
        generator = [f"--config={options.generator}", *of_all, *last]
        trained = Run(f"{name}-seed{seed}", ("fit", *generator, *keep), options.runs)
        generators[seed] = trained
        learner = [f"--config={options.learner}", *(f"--config={path}" for path in options.policy), *of_all]
        for age in (*sorted(set(options.ages)), BEST, REAL):
            which = "real" if age == REAL else f"{name}-age-{age}"
            more = [f"--config={ROOT}/configs/arm/real_only.yaml"]  # comes last: the share of an option gives way to 0
            after: tuple[Run, ...] = ()
            if age != REAL:
                folder = trained.checkpoint.parent
                checkpoint = trained.checkpoint if age == BEST else age_checkpoint(folder, int(age))
                measure = ("validate", *generator, f"--ckpt_path={checkpoint}")
                measures[age, seed] = Run(f"{which}-seed{seed}", measure, options.runs, (trained,))
                more, after = [f"--data.generator={checkpoint}"], (trained,)
            args = (*learner, *options.options, *more, *last)
            fit = Run(f"{options.learner.stem}-{which}-seed{seed}", ("fit", *args), options.runs, after)
            test = ("test", *args, f"--ckpt_path={fit.checkpoint}")
            tests[age, seed] = Run(f"{fit.name}-test", test, options.runs, (fit,))
    return generators, measures, tests


def title(age: Age) -> str:
    """Return what the table says of an age."""
    return REAL if age == REAL else "its best checkpoint" if age == BEST else f"{age} steps"


def table(metrics: Mapping[Age, list[dict]], arms: Mapping[str, Arm]) -> str:
    """Return the Markdown table: means over seeds; metrics ± half their range, accuracies ± their 95 % interval.

    Args:
        metrics: of the generators of each seed, by age.
        arms: learners by age (as text), REAL last.
    """
    shapes = arms[REAL].shapes
    head = ["generator", *(name for name, _ in METRICS.values())]
    rows = [[*head, *(cell for s in shapes for cell in (f"{s} (%)", f"{s} − real only"))]]
    for age, arm in arms.items():
        measured = next((found for other, found in metrics.items() if str(other) == age), [])
        cells = [half_range([one[name] for one in measured], digits) for name, (_, digits) in METRICS.items()]
        differences = {one.shape: percent(one.difference, one.ci95_seeds, sign="+") for one in paired(arms, age, REAL)}
        for shape in shapes:
            cells += [percent(*arm.over_seeds(shape)), "" if age == REAL else differences[shape]]
        rows.append([arm.title, *cells])
    return markdown_table(rows)


def notes(arms: Mapping[str, Arm], of_runs: Mapping, fits: list[Run], options: argparse.Namespace) -> str:
    """Return what the numbers are of."""
    tested = [(shape, seeds) for arm in arms.values() for shape, seeds in arm.accuracies.items()]
    learners = [(shape, values) for shape, seeds in tested for values in seeds.values()]
    width, n_episodes = max(mean_and_ci95(values)[1] for _, values in learners), {s: len(v) for s, v in learners}
    steps = [sorted({run.summary["steps"] for run in runs}) for runs in ({g for f in fits for g in f.after}, fits)]
    of_generator, of_learner = (" or ".join(map(str, found)) for found in steps)
    more = f" with `{' '.join(options.options)}`" if options.options else ""
    episodes = ", ".join(f"{n} of {shape} ({of_runs['episodes'][shape]})" for shape, n in n_episodes.items())
    return (
        f"Generator `{options.generator.stem}`, {of_generator} steps in all; learner `{options.learner.stem}`, "
        f"{of_learner} steps, tasks by {', '.join(f'`{path.stem}`' for path in options.policy)}{more}; seeds "
        f"{', '.join(map(str, options.seeds))}: a generator and its learners have the same; split "
        f"{of_runs['split']['name']} ({of_runs['split']['hash']}). Accuracies are means over seeds ± 95 % interval over"
        f" seeds (Student's t), differences are paired by seed; metrics ± half their range. Test episodes, the same in "
        f"all runs: {episodes}; they measure one trained learner to at most ± {100 * width:.2f}."
    )


def draw(metrics: Mapping[Age, list[dict]], arms: Mapping[str, Arm], path: Path) -> None:
    """Draw FID against accuracy: a dot a run, means with their intervals, and the line of real tasks only."""
    import matplotlib  # here: slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = arms[REAL].shapes
    figure, panels = pyplot.subplots(1, len(shapes), figsize=(5 * len(shapes), 4), squeeze=False)
    for panel, shape in zip(panels[0], shapes, strict=True):
        middle, half = (100 * value for value in arms[REAL].over_seeds(shape))
        panel.axhline(middle, color="tab:blue", label=REAL)
        panel.axhspan(middle - half, middle + half, color="tab:blue", alpha=0.12, linewidth=0)
        for age, of_generators in metrics.items():
            arm, fid = arms[str(age)], [one["fid"] for one in of_generators]
            panel.plot(fid, [100 * value for value in arm.means(shape)], ".", color="tab:orange", alpha=0.5)
            middle, half = (100 * value for value in arm.over_seeds(shape))
            panel.errorbar(mean(fid), middle, half, fmt="o", color="tab:orange", capsize=3)
            panel.annotate(f"{age}", (mean(fid), middle), xytext=(5, 5), textcoords="offset points", fontsize=9)
        panel.set(xlabel="FID of the generator (log)", ylabel=f"{shape} test accuracy (%)", xscale="log")
        panel.invert_xaxis()  # better to the right
        panel.legend(loc="best", fontsize=8)
    figure.suptitle("One generator at several ages (steps): mean and 95 % interval over seeds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
