"""How good are the pseudo-classes that runs without labels have found? The classes are used here, not in the runs.

python scripts/mined_classes.py runs/compare/no_labels/pseudo-seed*/*  # trainings with data.labels

Says of each run how many pseudo-classes there are, how pure they are, which share of the pairs within them is of one
class, and how many of the wrong pairs are of two alphabets, as one letter of Latin and Greek is.
"""

import argparse
from pathlib import Path

import torch

from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.evaluation.pseudo_classes import PseudoClassQuality, quality
from genmeta.evaluation.tables import markdown_table
from genmeta.modules.table_data import TableDataModule
from genmeta.modules.train_classes import MinedLabels


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of trainings with data.labels")
    rows = [
        ["run", "pseudo-classes", "images", "purity", "pairs of one class", "classes found", "wrong: two alphabets"]
    ]
    for folder in parser.parse_args(args).folders:
        one = of_run(folder)
        shares = (one.purity, one.pair_precision, one.found, one.across)
        cells = [str(one.n_pseudo), str(one.n_images), *(f"{100 * share:.1f} %" for share in shares)]
        rows.append([f"{folder.parent.name}/{folder.name}", *cells])
    print(markdown_table(rows))


def of_run(folder: Path) -> PseudoClassQuality:
    """Return the quality of a run's pseudo-classes, which are in the cache.

    Raises:
        UserError: the run found none.
    """
    data = TrainingCLI(["fit", f"--config={folder / 'config.yaml'}"], check_only=True).datamodule
    if not isinstance(data, TableDataModule) or not isinstance(data.labels, MinedLabels):
        raise UserError(
            f"{folder}: its data.labels are the data's own, or none; expected a run that found pseudo-classes"
        )
    assert data.table is not None
    groups = data.table.group_ids(torch.arange(len(data.table.class_names)))
    used = torch.zeros(len(data.table.class_names), dtype=torch.bool)
    used[data.whole_split.class_ids(data.table, "train")] = True
    rows = used[data.table.class_ids].nonzero().flatten()
    place = torch.full((len(data.table.images),), -1)
    place[rows] = torch.arange(len(rows))
    classes = data.table.class_ids[rows]
    return quality([place[of] for of in data.class_rows], classes, groups[classes])


if __name__ == "__main__":
    main()
