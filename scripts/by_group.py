"""A finished comparison by group (alphabet) of the test classes: python scripts/by_group.py runs/compare/record

Each of its test episodes must be within one group. Says each arm's error in each group, mean over seeds, and how many
errors fewer or more it makes than each control, with p of Student's paired t-test over groups × seeds (another
question than p over seeds alone, which is of these groups' episodes together) and over episodes (means over seeds).
Where both were tested once for all seeds, as ensembles are, there is one value a group.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError, nearest
from genmeta.evaluation.statistics import paired_t_test
from genmeta.evaluation.tables import markdown_table
from genmeta.modules.episodic_data import EpisodicDataModule

Errors = Mapping[tuple[str, str], float]
"""Mean error of an arm by group and seed."""


def main(args: list[str] | None = None) -> None:
    """Print the tables of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished genmeta compare, e.g. runs/compare/record")
    parser.add_argument("--controls", nargs="+", help="arms that the others are held to; the comparison's by default")
    options = parser.parse_args(args)
    results = json.loads((options.folder / "results.json").read_text())
    arms, controls = results["arms"], options.controls or [results["control"]]
    for control in controls:
        if control not in arms:
            raise UserError(f"--controls: no arm '{control}'; there are {', '.join(arms)}{nearest(control, arms)}")
    some_test = options.folder / next(iter(arms[results["control"]]["tests"].values()))
    for shape in results["episodes"]:
        groups = groups_of_episodes(some_test / "config.yaml", shape)
        errors = {name: by_group(arm["accuracies"][shape], groups) for name, arm in arms.items()}
        print(f"{shape}: error in %, mean over seeds\n\n{table(errors, arms)}\n")
        for control in controls:
            print(f"held to '{arms[control]['title']}'\n\n{held_to(errors, arms, control, shape)}\n")


def groups_of_episodes(config: Path, shape: str) -> list[str]:
    """Return the group that each test episode is within, as a test's configuration draws them.

    Raises:
        UserError: an episode has classes of several groups.
    """
    data = TrainingCLI(["test", f"--config={config}"], check_only=True).datamodule
    assert isinstance(data, EpisodicDataModule)
    assert data.table is not None
    [episodes] = [episodes for episodes in data.test if episodes.name == shape]
    classes = data.table.class_ids[data.eval_plan(data.test_part, episodes).rows[:, :, 0]]
    names = [{data.table.groups[number] for number in task.tolist()} for task in classes]
    if several := [sorted(of_task) for of_task in names if len(of_task) > 1]:
        raise UserError(f"{shape}: an episode has classes of {', '.join(several[0])}; expected episodes within a group")
    return [name for of_task in names for name in of_task]


def by_group(accuracies: Mapping[str, list[float]], groups: list[str]) -> Errors:
    """Return mean errors by group and seed, of the accuracies of a seed's episodes."""
    return {
        (group, seed): 1 - mean(value for value, its in zip(values, groups, strict=True) if its == group)
        for group in sorted(set(groups))
        for seed, values in accuracies.items()
    }


def table(errors: Mapping[str, Errors], arms: Mapping[str, Mapping[str, str]]) -> str:
    """Return the errors of all arms by group, as a Markdown table."""
    groups = sorted({group for of_arm in errors.values() for group, _ in of_arm})
    rows = [["arm", *groups, "mean of groups"]]
    for name, of_arm in errors.items():
        means = [mean(value for (its, _), value in of_arm.items() if its == group) for group in groups]
        rows.append([arms[name]["title"], *(f"{100 * value:.1f}" for value in (*means, mean(means)))])
    return markdown_table(rows)


def held_to(errors: Mapping[str, Errors], arms: Mapping[str, Mapping[str, Any]], control: str, shape: str) -> str:
    """Return each arm's change of the error against a control, as a Markdown table."""
    rows = [["arm", "difference in points", "errors, % of the control's", "p (groups × seeds)", "p (episodes)"]]
    for name, of_arm in errors.items():
        if name == control:
            continue
        by_test = {  # an arm that was tested once has the same test for all seeds
            (group, arms[name]["tests"][seed], arms[control]["tests"][seed]): value - errors[control][group, seed]
            for (group, seed), value in of_arm.items()
        }
        differences = torch.tensor(list(by_test.values()))
        change = 100 * float(differences.mean()) / mean(errors[control].values())
        accuracies = [torch.tensor(list(arms[key]["accuracies"][shape].values())).mean(0) for key in (control, name)]
        p_values = [paired_t_test(differences), paired_t_test(accuracies[0] - accuracies[1])]
        cells = [f"{100 * differences.mean():+.1f}", f"{change:+.0f}", *(f"{p:.2g}" for p in p_values)]
        rows.append([arms[name]["title"], *cells])
    return markdown_table(rows)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"by_group: error: {error}") from error
