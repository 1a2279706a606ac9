"""A comparison by group of the test classes."""

import importlib

import pytest
from conftest import ROOT

ACCURACIES = {
    "a": {"0": [0.4, 0.6, 0.9, 0.9], "1": [0.5, 0.5, 0.7, 0.7]},
    "b": {"0": [0.7, 0.8, 0.95, 0.95], "1": [0.75, 0.75, 0.85, 0.85]},
}
ARMS = {
    "a": {"title": "the control", "tests": {"0": "a0", "1": "a1"}, "accuracies": {"2w1s": ACCURACIES["a"]}},
    "b": {"title": "the other", "tests": {"0": "b0", "1": "b1"}, "accuracies": {"2w1s": ACCURACIES["b"]}},
}
GROUPS = ["g", "g", "h", "h"]


def test_errors_by_group_and_what_they_say_worked_out_by_hand(monkeypatch):
    """The other arm has half the errors in each group and seed: −0.25, −0.05, −0.25, −0.15."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    by_group = importlib.import_module("by_group")
    errors = {name: by_group.by_group(accuracies, GROUPS) for name, accuracies in ACCURACIES.items()}
    assert errors["a"] == pytest.approx({("g", "0"): 0.5, ("g", "1"): 0.5, ("h", "0"): 0.1, ("h", "1"): 0.3})
    assert by_group.table(errors, ARMS).splitlines()[2:] == [
        "| the control | 50.0 | 20.0 | 35.0           |",
        "| the other   | 25.0 | 10.0 | 17.5           |",
    ]
    # mean −0.175, standard deviation 0.0957, t = −3.656 with 3 degrees of freedom; over episodes, means over seeds:
    # 0.275, 0.225, 0.1, 0.1, standard deviation 0.0890, t = 3.932
    line = by_group.held_to(errors, ARMS, "a", "2w1s").splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["the other", "-17.5", "-50", "0.035", "0.029"]


def test_what_was_tested_once_counts_once_a_group(monkeypatch):
    """Bug: five times the same test of an ensemble taken for five seeds, and so a p-value that is far too small."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    by_group = importlib.import_module("by_group")
    arms = {
        name: {"title": name, "tests": dict.fromkeys("01", name), "accuracies": {"2w1s": dict.fromkeys("01", a)}}
        for name, a in {"a": [0.5, 0.5, 0.7, 0.7], "b": [0.7, 0.7, 0.8, 0.8]}.items()
    }
    errors = {name: by_group.by_group(arm["accuracies"]["2w1s"], GROUPS) for name, arm in arms.items()}
    line = by_group.held_to(errors, arms, "a", "2w1s").splitlines()[2]
    # −0.2 and −0.1: t = −3 with one degree of freedom
    assert [cell.strip() for cell in line.strip("|").split("|")][3] == "0.2"
