"""Make runs in the form of the Omniglot Challenge from the minimal sets' alphabets.

    python scripts/make_challenge_runs.py FOLDER_OF_THE_TWO_ZIPS OUT [--alphabets Sanskrit "Japanese_(katakana)"]

A run is of 20 characters of one alphabet; one of its drawers gives the training images, another the test images. They
are not the official runs and do not compare with published errors; they are for trying things out where `all_runs.zip`
is not at hand.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from genmeta.data.omniglot_minimal import OmniglotMinimal
from genmeta.data.table import ImageTable
from genmeta.rng import make_rng

N_WAY = 20


def main() -> None:
    """Write the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where images_background_small1.zip and small2.zip are")
    parser.add_argument("out", type=Path, help="folder to make; run01 … go into it")
    parser.add_argument("--alphabets", nargs="+", help="by default all that have 20 characters, in turn")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = OmniglotMinimal(options.folder, size=105).load()
    groups = [group for group in dict.fromkeys(table.groups) if table.groups.count(group) >= N_WAY]
    alphabets = options.alphabets or groups
    if unknown := set(alphabets) - set(groups):
        parser.error(f"no alphabet of {N_WAY} characters: {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    options.out.mkdir(parents=True)
    for number in range(options.runs):
        alphabet = alphabets[number % len(alphabets)]
        write_run(table, alphabet, options.out, f"run{number + 1:02d}", make_rng(options.seed, "challenge", number))


def write_run(table: ImageTable, alphabet: str, out: Path, name: str, rng: torch.Generator) -> None:
    """Write the files of one run; class and item numbers are drawn independently."""
    members = torch.tensor([number for number, group in enumerate(table.groups) if group == alphabet])
    classes = members[torch.randperm(len(members), generator=rng)[:N_WAY]]
    drawers = torch.randperm(20, generator=rng)[:2]  # drawing k of each character is by drawer k of the alphabet
    items = torch.randperm(N_WAY, generator=rng).tolist()
    for kind in ("training", "test"):
        (out / name / kind).mkdir(parents=True)
    lines = []
    for place, (number, item) in enumerate(zip(classes.tolist(), items, strict=True)):
        files = (f"{name}/training/class{place + 1:02d}.png", f"{name}/test/item{item + 1:02d}.png")
        for file, drawer in zip(files, drawers.tolist(), strict=True):
            paper = 255 - table.images[int(table.starts[number]) + drawer, 0].numpy()
            Image.fromarray(paper).convert("1").save(out / file)
        lines.append(f"{files[1]} {files[0]}")
    (out / name / "class_labels.txt").write_text("\n".join(sorted(lines)) + "\n")


if __name__ == "__main__":
    main()
