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
from pathlib import Path
from statistics import mean

from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.statistics import mean_and_t95
from genmeta.experiments.execute import run_all
from genmeta.experiments.results import check_same_episodes
from genmeta.experiments.run import Run
from genmeta.modules.keep_ages import age_checkpoint

ROOT = Path(__file__).parents[1]
METRICS = {"fid": ("FID ↓", 2), "coverage": ("coverage ↑", 2), "recognisability": ("recognisability ↑", 2)}
BEST, REAL = "best", "real tasks only"


def main(args: list[str] | None = None) -> None:
    """Run what is missing, then write the table and the picture."""
    options = parse(args)
    generators, measures, tests = grid(options)
    fits = [needed for test in tests.values() for needed in test.after]
    if failed := run_all([*generators.values(), *measures.values(), *fits, *tests.values()], options.workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")
    check_same_episodes({str(key): test.summary for key, test in tests.items()})
    reports = {key: run.summary["report"] for key, run in measures.items()}
    accuracies = {
        key: {shape: mean(values) for shape, values in run.summary["episode_accuracies"].items()}
        for key, run in tests.items()
    }
    text = table(reports, accuracies, options)
    text += "\n" + notes(generators, tests, options)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        picture = options.out.parent / "pictures" / f"{options.out.stem}.png"
        draw(reports, accuracies, picture)
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
    for kind in ("data", "generator", "learner"):
        name = getattr(options, kind)
        known = ROOT / "configs" / kind / f"{name}.yaml"
        setattr(options, kind, known if known.is_file() else Path(name))
    known = {path.stem: path for path in (ROOT / "configs" / "policy").glob("*.yaml")}
    options.policy = [known.get(name, Path(name)) for name in options.policy]
    for path in (options.data, options.generator, options.learner, *options.policy, *map(Path, options.config)):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    if len(options.seeds) < 2:
        parser.error("--seeds: an interval over training runs needs 2 seeds")
    return options


Key = tuple[int | str, int]
"""Age (steps, BEST, or REAL: no generator) and seed."""


def grid(options: argparse.Namespace) -> tuple[dict[int, Run], dict[Key, Run], dict[Key, Run]]:
    """Return the generators' runs by seed, and by age and seed what measures them and what tests the learners."""
    name = f"{options.generator.stem}-{options.data.stem}"
    keep = [
        "--trainer.callbacks+=genmeta.modules.keep_ages.KeepAges",
        f"--trainer.callbacks.steps={sorted(set(options.ages))}",
    ]
    generators: dict[int, Run] = {}
    measures: dict[Key, Run] = {}
    tests: dict[Key, Run] = {}
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


def ages_of(tests: dict[Key, dict]) -> list[int | str]:
    """Return the ages in the order of the table, real tasks only at the end."""
    return list(dict.fromkeys(age for age, _ in tests))


def of_age(values: dict[Key, dict], age: int | str, name: str) -> list[float]:
    """Return one value of each seed."""
    return [value[name] for (other, _), value in values.items() if other == age]


def table(reports: dict[Key, dict], accuracies: dict[Key, dict], options: argparse.Namespace) -> str:
    """Return the Markdown table: means over seeds; metrics ± half their range, accuracies ± their 95 % interval."""
    shapes = list(next(iter(accuracies.values())))
    head = ["generator", *(title for title, _ in METRICS.values())]
    head += [cell for shape in shapes for cell in (f"{shape} (%)", f"{shape} − real only")]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for age in ages_of(accuracies):
        cells = [REAL if age == REAL else "its best checkpoint" if age == BEST else f"{age} steps"]
        for metric, (_, digits) in METRICS.items():
            values = [] if age == REAL else of_age(reports, age, metric)
            half = (max(values) - min(values)) / 2 if values else 0
            cells.append(f"{mean(values):.{digits}f} ± {half:.{digits}f}" if values else "")
        for shape in shapes:
            values = of_age(accuracies, age, shape)
            middle, half = mean_and_t95([100 * value for value in values])
            cells.append(f"{middle:.2f} ± {half:.2f}")
            pairs = zip(values, of_age(accuracies, REAL, shape), strict=True)
            middle, half = mean_and_t95([100 * (value - real) for value, real in pairs])
            cells.append("" if age == REAL else f"{middle:+.2f} ± {half:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def notes(generators: dict[int, Run], tests: dict[Key, Run], options: argparse.Namespace) -> str:
    """Return what the numbers are of."""
    some = next(iter(tests.values()))
    n_episodes = {shape: len(values) for shape, values in some.summary["episode_accuracies"].items()}
    width = max(100 * mean_and_ci95(v)[1] for run in tests.values() for v in run.summary["episode_accuracies"].values())
    steps = sorted({run.summary["steps"] for run in generators.values()})
    learner_steps = sorted({fit.summary["steps"] for test in tests.values() for fit in test.after})
    more = f" with `{' '.join(options.options)}`" if options.options else ""
    split = some.summary["split"]
    episodes = ", ".join(f"{n} of {s} ({some.summary['episodes'][f'test/{s}']})" for s, n in n_episodes.items())
    return (
        f"Generator `{options.generator.stem}`, {' or '.join(map(str, steps))} steps in all; learner "
        f"`{options.learner.stem}`, {' or '.join(map(str, learner_steps))} steps, tasks by "
        f"{', '.join(f'`{path.stem}`' for path in options.policy)}{more}; seeds "
        f"{', '.join(map(str, options.seeds))}: a generator and its learners have the same; split {split['name']} "
        f"({split['hash']}). Accuracies are means over seeds ± 95 % interval over seeds (Student's t), differences are "
        f"paired by seed; metrics ± half their range. Test episodes, the same in all runs: {episodes}; they measure "
        f"one trained learner to at most ± {width:.2f}.\n"
    )


def draw(reports: dict[Key, dict], accuracies: dict[Key, dict], path: Path) -> None:
    """Draw FID against accuracy: a dot a run, means with their intervals, and the line of real tasks only."""
    import matplotlib  # here: slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(next(iter(accuracies.values())))
    figure, panels = pyplot.subplots(1, len(shapes), figsize=(5 * len(shapes), 4), squeeze=False)
    for panel, shape in zip(panels[0], shapes, strict=True):
        middle, half = mean_and_t95([100 * value for value in of_age(accuracies, REAL, shape)])
        panel.axhline(middle, color="tab:blue", label=REAL)
        panel.axhspan(middle - half, middle + half, color="tab:blue", alpha=0.12, linewidth=0)
        for age in ages_of(accuracies)[:-1]:
            fid, values = of_age(reports, age, "fid"), [100 * value for value in of_age(accuracies, age, shape)]
            panel.plot(fid, values, ".", color="tab:orange", alpha=0.5)
            middle, half = mean_and_t95(values)
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
