"""What `genmeta experiment` writes: results.md, and results.json with the accuracy of every test episode."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genmeta.evaluation.comparison import Paired, SeedsOfArm, check_same_episodes, credit, paired, table
from genmeta.experiments.default_plan import MIXED, TRAINED, Grid, Settings
from genmeta.experiments.run_folder import banner, best_checkpoint, code_commit, write_whole


def write_results(settings: Settings, grid: Grid, folder: Path) -> tuple[str, dict[str, SeedsOfArm]]:
    """Write the results of finished runs; return the page and the rows of its table.

    `results.md` has nothing that depends on the clock: the same experiment writes the same file. `results.json` comes
    last: an experiment that has it is finished.

    Raises:
        UserError: arms were not tested on the same episodes.
    """
    arms = grid.found()
    check_same_episodes([of_seed for arm in arms.values() for of_seed in arm.seeds.values()])
    against = {arm: paired(arms[MIXED], arms[arm]) for arm in TRAINED if arm != MIXED}
    beside = {row: paired(arms[row], arms[MIXED]) for row in arms if row.startswith(f"{MIXED}+")}
    of_controls = [one for found in against.values() for one in found]
    words = credit(of_controls)
    text = "\n".join(
        [
            table(list(arms.values())),
            "",
            *map(str, of_controls),
            *(str(one) for found in beside.values() for one in found),
            "",
            words,
            "",
            _notes(settings, grid, arms),
        ]
    )
    text = banner(next(iter(grid.tests.values())).summary) + text
    write_whole(folder / "results.md", text + "\n")
    differences = [_entry(MIXED, control, one) for control, found in against.items() for one in found]
    differences += [_entry(row, MIXED, one) for row, found in beside.items() for one in found]
    results = _results(settings, grid, folder, arms) | {"comparisons": differences, "sentence": words}
    write_whole(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return text, arms


def _entry(arm: str, control: str, found: Paired) -> dict[str, Any]:
    content = asdict(found)
    half = found.ci95 if found.ci95 < float("inf") else None
    of_seeds = {str(seed): one for seed, one in found.of_seeds.items()}
    return {
        "arm": arm,
        "control": control,
        **{name: content[name] for name in ("shape", "difference")},
        "ci95_episodes": half,
        "of_seeds": of_seeds,
    }


def _results(settings: Settings, grid: Grid, folder: Path, arms: Mapping[str, SeedsOfArm]) -> dict[str, Any]:
    """Return what `results.json` says of the runs; paths of learners and tests are relative to its folder."""
    some = next(iter(grid.tests.values())).summary
    summaries = [run.summary for run in grid.runs]
    return {
        "kind": "experiment",
        "data": settings.options.data.stem,
        "learner": settings.options.learner.stem,
        "control": "elastic_quarter",
        "seeds": settings.seeds,
        "arms": {row: _arm(grid, folder, row, arm) for row, arm in arms.items()},
        "episodes": dict(next(iter(arms[MIXED].seeds.values())).hashes),
        "split": some["split"],
        **{role: str(run.folder) for role, run in grid.generators.items()},
        "seconds": round(sum(summary["seconds"] for summary in summaries), 1),
        "commit": ", ".join(sorted({str(summary.get("commit", code_commit())) for summary in summaries})),
        **({"debug": True} if some.get("debug") else {}),
    }


def _arm(grid: Grid, folder: Path, row: str, arm: SeedsOfArm) -> dict[str, Any]:
    own, _, beside = row.partition("+")
    version = "test_hands" if beside else "test"
    fits = {} if beside else {s: grid.fits[own, s] for s in arm.seeds if (own, s) in grid.fits}
    return {
        "title": arm.title,
        "accuracies": {
            shape: {str(seed): list(one.accuracies[shape]) for seed, one in arm.seeds.items()} for shape in arm.shapes
        },
        "fits": {str(seed): str(run.folder.relative_to(folder)) for seed, run in fits.items()},
        "tests": {str(s): str(grid.tests[own, s, version].folder.relative_to(folder)) for s in arm.seeds},
    }


def _notes(settings: Settings, grid: Grid, arms: Mapping[str, SeedsOfArm]) -> str:
    """Return what the numbers are of."""
    split = next(iter(grid.tests.values())).summary["split"]
    one = next(iter(arms[MIXED].seeds.values()))
    episodes = ", ".join(
        f"{len(values)} of {shape}, hash {one.hashes[f'test/{shape}']}" for shape, values in one.accuracies.items()
    )
    seeds = f"training seeds {', '.join(map(str, settings.seeds))}" if len(settings.seeds) > 1 else "one training seed"
    generator = f"; one generator, seed {settings.seeds[0]}" if grid.generators else ""
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
