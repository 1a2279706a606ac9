"""What `genmeta experiment` writes: results.md, and results.json with the accuracy of every test episode."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.default_plan import MIXED, TITLES, TRAINED, Grid, Settings
from genmeta.experiments.results import Arm, facts, paired, read_arm
from genmeta.experiments.run_folder import banner, best_checkpoint, write_whole
from genmeta.experiments.tables import over_episodes_rows
from genmeta.experiments.words import credit, in_one_line
from genmeta.experiments.write import write_json
from genmeta.tasks.evaluated import Support


def write_experiment(settings: Settings, grid: Grid, folder: Path) -> tuple[str, dict[str, Arm]]:
    """Write the results of finished runs; return the page and the rows of its table.

    `results.md` has nothing that depends on the clock: the same experiment writes the same file. `results.json` comes
    last: an experiment that has it is finished.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    results = {
        "kind": "experiment",
        "data": settings.options.data.stem,
        "learner": settings.options.learner.stem,
        "control": "elastic_quarter",
        "seeds": settings.seeds,
        **{role: str(run.folder) for role, run in grid.generators.items()},
        **facts(list(grid.tests.values()), grid.runs),
    }
    arms = _arms(settings, grid, folder)
    against = [one for control in TRAINED if control != MIXED for one in paired(arms, MIXED, control)]
    beside = [one for row, arm in arms.items() if arm.learner == MIXED for one in paired(arms, row, MIXED)]
    words = credit(against, arms)
    lines = [in_one_line(one, arms) for one in (*against, *beside)]
    notes = _notes(settings, results["split"], results["episodes"], arms[MIXED])
    table = markdown_table(over_episodes_rows(list(arms.values())))
    text = banner(results) + "\n".join([table, "", *lines, "", words, "", notes])
    write_whole(folder / "results.md", text + "\n")
    results |= {"arms": {row: arm.as_json() for row, arm in arms.items()}, "sentence": words}
    write_json(folder, results | {"comparisons": [asdict(one) for one in (*against, *beside)]})
    return text, arms


def _arms(settings: Settings, grid: Grid, folder: Path) -> dict[str, Arm]:
    """Return the rows of the table; those with generated support images after those of the same learners.

    Episodes with generated support images are the same real ones, so that all of them pair.
    """
    arms = {}
    for arm, title in TITLES.items():
        tests = {seed: grid.tests[arm, seed, "test"] for seed in settings.seeds if (arm, seed, "test") in grid.tests}
        if not tests:
            continue
        fits = {seed: grid.fits[arm, seed] for seed in tests if (arm, seed) in grid.fits}
        arms[arm] = read_arm(title, tests, fits, folder)
        if arm in settings.with_support:
            tests = {seed: grid.tests[arm, seed, "test_redrawn"] for seed in settings.seeds}
            names: dict[Support, dict[str, str]] = {}
            for one in settings.with_support[arm]:
                if one.support:
                    names.setdefault(one.support, {})[one.name] = one.base_name
            for support, of_support in names.items():
                title = f"… and {support.title} beside each support image"
                arms[f"{arm}{support.suffix}"] = read_arm(title, tests, {}, folder, of_support, learner=arm)
    return arms


def _notes(settings: Settings, split: Mapping[str, str], hashes: Mapping[str, str], mixed: Arm) -> str:
    """Return what the numbers are of."""
    episodes = ", ".join(
        f"{len(next(iter(of_seeds.values())))} of {shape}, hash {hashes[shape]}"
        for shape, of_seeds in mixed.accuracies.items()
    )
    seeds = f"training seeds {', '.join(map(str, settings.seeds))}" if len(settings.seeds) > 1 else "one training seed"
    generator = f"; one generator, seed {settings.seeds[0]}" if settings.roles else ""
    return (
        f"Accuracy in % on classes that neither generator nor learner has seen (split {split['name']}, hash "
        f"{split['hash']}), mean of {seeds}{generator}; ± 95 % interval over test episodes ({episodes}); the same "
        f"episodes in all rows."
    )


def where_things_are(grid: Grid, folder: Path, seconds: float) -> str:
    """Return where results, checkpoints and pictures lie."""
    first = next(iter(grid.fits.values())).folder
    lines = [
        f"results      {folder}/results.md, results.json  ({seconds:.0f} s)",
        f"checkpoints  {', '.join(str(best_checkpoint(run.folder)) for run in list(grid.fits.values())[:2])}, …",
    ]
    lines += [f"{role:12} {run.checkpoint}, pictures in {run.folder}/pictures" for role, run in grid.generators.items()]
    lines.append(f"episodes     {first / 'pictures' / 'episodes.png'}")
    return "\n".join(lines)
