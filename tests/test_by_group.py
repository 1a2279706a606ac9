"""A comparison by group of the test classes."""

import importlib

import pytest
from conftest import ROOT

ARMS = {"a": {"title": "the control"}, "b": {"title": "the other"}}
GROUPS = ["g", "g", "h", "h"]


def test_errors_by_group_and_what_they_say_worked_out_by_hand(monkeypatch):
    """The other arm has half the errors in each group and seed: −0.25, −0.05, −0.25, −0.15."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    by_group = importlib.import_module("by_group")
    errors = {
        "a": by_group.by_group({"0": [0.4, 0.6, 0.9, 0.9], "1": [0.5, 0.5, 0.7, 0.7]}, GROUPS),
        "b": by_group.by_group({"0": [0.7, 0.8, 0.95, 0.95], "1": [0.75, 0.75, 0.85, 0.85]}, GROUPS),
    }
    assert errors["a"] == pytest.approx({("g", "0"): 0.5, ("g", "1"): 0.5, ("h", "0"): 0.1, ("h", "1"): 0.3})
    assert by_group.table(errors, ARMS).splitlines()[2:] == [
        "| the control | 50.0 | 20.0 | 35.0           |",
        "| the other   | 25.0 | 10.0 | 17.5           |",
    ]
    # mean −0.175, standard deviation 0.0957, t = −3.656 with 3 degrees of freedom
    line = by_group.held_to(errors, ARMS, "a").splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["the other", "-17.5", "-50", "0.035"]
