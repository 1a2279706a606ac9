"""Accuracy by class and which classes are taken for which, worked out by hand."""

import csv

import pytest
import torch
from PIL import Image

from genmeta.cli.main import main
from genmeta.cli.report.folders import read_run
from genmeta.evaluation.confusion import ClassConfusion, Confusion, pair_rows, per_class_rows
from genmeta.modules.class_files import DRAWN, draw_confusion, lowest_classes

NAMES = ("a", "b", "c", "d")
GROUPS = ("g", "g", "h", "h")


def counted(*episodes):
    """What is counted of episodes: classes by label, labels of the queries, labels that they were given."""
    metric = ClassConfusion(4)
    for classes, truth, given in episodes:
        logits = torch.nn.functional.one_hot(torch.tensor([given]), len(classes)).float()
        metric.update(logits, torch.tensor([truth]), torch.tensor([classes]))
    return Confusion(NAMES, GROUPS, *metric.compute())


# a meets b twice and c once; d is in no episode
FOUND = counted(([0, 1], [0, 0, 1, 1], [0, 1, 1, 1]), ([1, 0], [1, 0], [0, 0]), ([2, 0], [0, 1], [0, 1]))


def test_rates_are_over_the_queries_that_were_offered_the_other_class():
    assert FOUND.offered.tolist() == [[4, 3, 1, 0], [3, 3, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert FOUND.chosen.tolist() == [[2, 2, 0, 0], [0, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert FOUND.offered.dtype == torch.int64
    (pair,) = FOUND.pairs
    assert (pair.truth, pair.given, pair.rate) == ("a", "b", pytest.approx(2 / 3))
    assert FOUND.lowest(2) == [("a", 0.5), ("b", 1.0)], "a class without a query has no accuracy"
    assert lowest_classes(FOUND, 1) == "a 50.0 %"
    assert per_class_rows("2w1s", FOUND)[0] == ("2w1s", "a", "g", 4, 2, "0.500000", "b", 3, 2, "0.666667")
    assert per_class_rows("2w1s", FOUND)[3] == ("2w1s", "d", "h", 0, 0, "", "", "", "", "")
    assert pair_rows("2w1s", FOUND) == [("2w1s", "a", "b", 3, 2, "0.666667")]


def test_many_mistakes_of_many_come_before_one_of_one():
    offered, chosen = torch.zeros(2, 4, 4, dtype=torch.int64).unbind()
    offered[0, 1], chosen[0, 1] = 1, 1
    offered[2, 3], chosen[2, 3] = 100, 60
    assert [pair.truth for pair in Confusion(NAMES, GROUPS, offered, chosen).pairs] == ["c", "a"]


def test_the_picture_has_the_most_confused_of_many_classes():
    n = 3 * DRAWN
    names = tuple(f"class {i}" for i in range(n))
    offered, chosen = torch.full((n, n), 10), torch.eye(n, dtype=torch.int64) * 10
    chosen[70, 5] = 9
    chosen[8, 70] = 8
    found = Confusion(names, ("g",) * n, offered, chosen)
    assert found.most_confused(DRAWN) == [5, 8, 70]
    assert found.most_confused(2) == [5, 70]
    picture = draw_confusion(found)
    assert picture[:, -10, -10].tolist() == pytest.approx([0.05, 0.2, 0.6]), "70 as 70, always: dark blue"
    assert picture[0, -10, -28] > picture[1, -10, -28], "70 as 5: red"
    assert draw_confusion(Confusion(NAMES, GROUPS, *torch.zeros(2, 4, 4, dtype=torch.int64))).shape[0] == 3


def test_a_test_with_generated_support_counts_classes_by_their_queries(tmp_path, toy_split_file, monkeypatch):
    from conftest import ROOT

    monkeypatch.chdir(ROOT)
    support = "{n: 2, redraw: {learned: 0.0, elastic: {}}}"
    one = "n_way: 5, n_shot: 1, n_query: 5, n_episodes: 8"
    options = [
        "--config=configs/baseline/pixels.yaml",
        "--data.source=conftest.ToySource",
        f"--data.split={toy_split_file}",
        f"--data.test=[{{{one}}}, {{{one}, support: {support}}}]",
        f"--run.folder={tmp_path}",
        "--run.wandb=off",
    ]
    assert main(["test", *options]) == 0
    (folder,) = tmp_path.glob("*/001")
    run = read_run(folder, "test")
    assert set(run.classes) == {"5w1s", "5w1s+2elastic"}
    plain, beside = (list(map(by_class, rows)) for rows in run.classes.values())
    assert plain == beside, "the same queries of the same classes"
    with (folder / "confusion.csv").open(newline="") as file:
        assert all(int(row["chosen"]) <= int(row["offered"]) for row in csv.DictReader(file))
    with Image.open(folder / "pictures" / "confusion.png") as picture:
        assert picture.width > 2 * 6 * 9
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "6 hardest of 6 classes" in page
    assert "answers to test queries" in page


def by_class(row):
    return row["class"], row["queries"]
