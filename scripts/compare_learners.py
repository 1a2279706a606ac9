"""Train learners and baselines on real episodes with several seeds and write the table of their accuracies.

python scripts/compare_learners.py --data omniglot_minimal --seeds 0 1 2 --workers 2 --out docs/learners-omniglot.md

All rows are trained on the same number of images (`--images`): steps are that divided by the images of a step. A
learner whose way is fixed is trained once for each way that is tested, validated at that way; others are trained once,
as their YAML says. Where a way is larger than the validation part of the split, the smallest groups of its training
classes are moved to it, for all rows. A learner with `query_statistics` is tested with either. Whether a row is
transductive is found out by trying. Runs that are finished are not repeated, so it can be stopped and started again.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from learner_rows import EPOCHS, Row, rows_of
from table_of_runs import parser, run_or_stop, write

from genmeta.cli.training import checked
from genmeta.data.splits import write_split
from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.results import facts, read_arm
from genmeta.experiments.run import Run
from genmeta.experiments.tables import over_both
from genmeta.shipped import find_config
from genmeta.tasks.evaluated import Episodes

EPISODES = [Episodes(way, 1, queries, groups=g) for way, queries in ((5, 15), (20, 5)) for g in ("any", "within")]
SHAPES = {episodes.name: episodes for episodes in EPISODES}


def main() -> None:
    """Run what is missing, then write the table."""
    made = parser(__doc__, "runs/learners", [0, 1, 2], learners="learner", baselines="baseline")
    made.add_argument("--images", type=int, default=240_000, help="training images of each row")
    made.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of test episodes")
    made.add_argument("--episodes", type=int, default=600, help="test episodes of a shape")
    options = made.parse_args()
    shapes = {name: replace(SHAPES[name], n_episodes=options.episodes) for name in options.shapes}
    split = roomy_split(options, max(e.n_way for e in shapes.values()))
    named = [("learner", name) for name in options.learners] + [("baseline", name) for name in options.baselines]
    rows = [row for kind, name in named for row in rows_of(kind, name, shapes, split, options)]
    tests = [run for row in rows for of_shape in row.tests.values() for run in of_shape.values()]
    runs = dict.fromkeys([*(run for row in rows for fits, _ in row.fits for run in fits), *tests])
    run_or_stop(runs, options.workers, f"learners-{options.data}", arms_of(rows))
    write(table(rows, tests, options), options.out)


def arms_of(rows: Sequence[Row]) -> dict[Run, str]:
    """Return the arm of each run: the name of its YAML; for tests of a YAML with two rows, the mode too."""
    n_rows = Counter(row.name for row in rows)
    arms = {run: row.name for row in rows for fits, _ in row.fits for run in fits}
    for row in rows:
        arm = row.name if n_rows[row.name] == 1 else f"{row.name}-{row.mode}"
        arms |= {run: arm for by_seed in row.tests.values() for run in by_seed.values()}
    return arms


def roomy_split(options: argparse.Namespace, n_way: int) -> list[str]:
    """Return the options of a split whose validation part has classes enough for the largest way: none, if the one of
    the data's YAML has.
    """
    configs = [find_config("baseline", "pixels"), find_config("data", options.data)]
    data = checked(["test", *(f"--config={path}" for path in configs)]).datamodule
    split = data.split.with_val_of(n_way, dict(zip(data.table.class_names, data.table.groups, strict=True)))
    if split is data.split:
        return []
    path = Path(options.runs) / "yaml" / f"{split.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_split(split, path)
    return [f"--data.split={path}"]


def table(rows: Sequence[Row], tests: Sequence[Run], options: argparse.Namespace) -> str:
    """Return the Markdown table and what must be known to read it."""
    of_runs = facts(tests, tests)
    lines = [["learner", "queries", *options.shapes, "trained on", "s per 1,000 training episodes"]]
    for row in rows:
        cells = []
        for shape in options.shapes:
            arm = read_arm(row.name, row.tests[shape], {}, Path(options.runs), {shape: shape})
            cells.append(over_both(arm, shape, digits=1))
        fastest = [1000 * min(run.summary["seconds"] for run in fits) / n for fits, n in row.fits]  # of each way
        cells += ["; ".join(dict.fromkeys(row.notes)), f"{mean(fastest):.1f}" if fastest else "–"]
        lines.append([f"`{row.name}`", row.mode, *cells])
    queries = ", ".join(dict.fromkeys(f"{SHAPES[s].n_query} of {SHAPES[s].n_way}-way" for s in options.shapes))
    return (
        f"{markdown_table(lines)}\n\n"
        f"Accuracy in % on classes that no row has seen: data {options.data}, split '{of_runs['split']['name']}' "
        f"({of_runs['split']['hash']}), real episodes only, about {options.images:,} training images in each trained "
        f"row. Mean over seeds {', '.join(map(str, options.seeds))}; "
        f"after the first ± the 95 % interval over seeds (Student's t: how much trainings differ), after the second "
        f"that over {options.episodes} test episodes, the same for all rows ({queries} queries a class). `within`: "
        f"all classes of an episode are of one group (alphabet); otherwise of any. Times are of whole trainings with "
        f"{EPOCHS} validations, one thread, {options.workers} at a time: of the fastest seed, since other work on a "
        f"machine only adds; the mean over ways where there are two.\n"
    )


if __name__ == "__main__":
    main()
