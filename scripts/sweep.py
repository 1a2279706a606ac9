"""A W&B sweep without an account: runs the trials of a sweep's YAML here and writes their table.

python scripts/sweep.py configs/sweep/share.yaml [--generator CHECKPOINT] [--workers 2] [-- MORE OPTIONS OF EVERY TRIAL]

With an account the same YAML makes a W&B sweep (`wandb sweep`, `wandb agent`; `--online` does both). W&B's own local
controller needs an account too, so Optuna suggests the values of `random` and `bayes` (tree-structured Parzen
estimators in place of W&B's Gaussian processes); `grid` needs nothing. Trials are suggested in rounds of four from a
fixed seed, whatever the number of workers, so that the same command goes on where it was stopped: finished trials are
read, not run. What is optimised is a validation metric, never a test metric.
"""

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from genmeta.cli.newest import newest
from genmeta.cli.tracking import has_account, project
from genmeta.errors import UserError
from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.execute import run_all
from genmeta.experiments.run import Run

ROUND = 4
GENERATOR = "GENMETA_GENERATOR"
METHODS = ("grid", "random", "bayes")
KNOWN = {"program", "method", "metric", "parameters", "command", "run_cap", "name", "description", "project", "entity"}


def main(args: Sequence[str] | None = None) -> int:
    """Run the sweep; return the exit code."""
    options = _parse(args)
    try:
        sweep = read_sweep(options.sweep)
        if options.generator:
            os.environ[GENERATOR] = options.generator
        elif f"envvar:{GENERATOR}}}" in " ".join(sweep["command"]) and not os.environ.get(GENERATOR):
            with suppress(UserError):  # said by `expand`, in words of the sweep
                os.environ[GENERATOR] = str(newest({"generator"}))
                print(f"generator   {os.environ[GENERATOR]}, the newest", flush=True)
        expand(sweep["command"], [], options.more)  # what it takes from the environment must be there
        if options.online:
            return online(options.sweep, sweep)
        return local(options, sweep)
    except UserError as error:
        print(f"sweep: error: {error}", file=sys.stderr)
        return 2


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a YAML of configs/sweep")
    parser.add_argument(
        "--generator", help=f"checkpoint, for YAMLs that name ${{envvar:{GENERATOR}}} (default: the newest)"
    )
    parser.add_argument("--runs", default="runs/sweeps", help="folder of all trials")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time")
    parser.add_argument("--online", action="store_true", help="as a W&B sweep, with an account")
    given = list(sys.argv[1:] if args is None else args)
    ours, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    return argparse.Namespace(**vars(parser.parse_args(ours)), more=more)


def read_sweep(path: Path) -> dict[str, Any]:
    """Read a sweep's YAML and check what can be checked of it.

    Raises:
        UserError: there is no such file, it is not of W&B's form, or asks for what cannot be done here.
    """
    try:
        sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(sweep, dict) or not {"method", "metric", "parameters", "command"} <= set(sweep):
        raise UserError(f"{path}: expected a sweep with method, metric, parameters and command")
    if unknown := sorted(set(sweep) - KNOWN):
        raise UserError(f"{path}: {', '.join(unknown)} cannot be done here; known are {', '.join(sorted(KNOWN))}")
    if sweep["method"] not in METHODS:
        raise UserError(f"{path}: method must be one of {', '.join(METHODS)}, found '{sweep['method']}'")
    metric = sweep["metric"]
    if not str(metric.get("name", "")).startswith("val/") or metric.get("goal") not in ("maximize", "minimize"):
        raise UserError(
            f"{path}: metric must have a name under val/ and a goal, maximize or minimize, found {metric}; settings "
            f"are chosen on validation classes, never on test classes"
        )
    if sweep["method"] != "grid" and not isinstance(sweep.get("run_cap"), int):
        raise UserError(f"{path}: method {sweep['method']} never ends by itself; set run_cap, the number of trials")
    for name, spec in sweep["parameters"].items():
        kind(path, name, spec)
        if sweep["method"] == "grid" and kind(path, name, spec) not in ("values", "value"):
            raise UserError(f"{path}: parameters.{name}: a grid needs values, found {spec}")
    return sweep


def kind(path: Path, name: str, spec: Any) -> str:
    """Return how a parameter is given: `value`, `values`, `uniform`, `int_uniform` or `log_uniform_values`.

    Raises:
        UserError: in none of these ways.
    """
    if isinstance(spec, dict):
        for given in ("values", "value"):
            if set(spec) == {given}:
                return given
        if {"min", "max"} <= set(spec) <= {"min", "max", "distribution"}:
            whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
            found = str(spec.get("distribution", "int_uniform" if whole else "uniform"))
            if found in ("uniform", "int_uniform", "log_uniform_values"):
                return found
    raise UserError(
        f"parameters.{name} of {path}: expected value, values, or min and max (distribution: uniform, int_uniform, "
        f"log_uniform_values), found {spec}"
    )


def expand(command: Sequence[str], args: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Return the options of `genmeta` of a trial, as W&B's agent would call it.

    Raises:
        UserError: a variable of the environment is not set, or the command does not run genmeta.
    """
    head = ["${interpreter}", "-m", "${program}"]
    if list(command[:3]) != head or "${args}" not in command:
        raise UserError(f"command must begin with {', '.join(head)} and have ${{args}}, found {' '.join(command)}")
    result: list[str] = []
    for word in command[3:]:
        for name in re.findall(r"\$\{envvar:(\w+)\}", word):
            if not os.environ.get(name):
                raise UserError(
                    "the sweep needs a generator: give --generator CHECKPOINT (make sweep CKPT=...)"
                    if name == GENERATOR
                    else f"the sweep needs the environment variable {name}"
                )
            word = word.replace(f"${{envvar:{name}}}", os.environ[name])
        result += args if word == "${args}" else [word]
    return (*result, *more)


def local(options: argparse.Namespace, sweep: dict[str, Any]) -> int:
    """Run all trials here; print and write the table. Returns 1 if some failed."""
    name, metric = options.sweep.stem, sweep["metric"]
    done: list[tuple[dict[str, Any], Run]] = []
    rounds = suggestions(options.sweep, sweep)
    scores: list[float | None] | None = None
    while True:
        try:
            values = rounds.send(scores) if scores is not None else next(rounds)
        except StopIteration:
            break
        trials = [
            Run(
                name,
                expand(
                    [*sweep["command"]],
                    [f"--{key}={value}" for key, value in chosen.items()],
                    [*options.more, f"--run.group=sweep-{name}", "--run.artifacts=false"],
                ),
                options.runs,
            )
            for chosen in values
        ]
        run_all(list(dict.fromkeys(trials)), options.workers)
        scores = [score_of(run, metric["name"]) for run in trials]
        done += zip(values, trials, strict=True)
    text, rows = table(done, metric)
    folder = Path(options.runs) / name
    (folder / "trials.md").write_text(text + "\n", encoding="utf-8")
    (folder / "trials.json").write_text(json.dumps({"metric": metric, "trials": rows}, indent=1) + "\n")
    print(f"\n{text}\n\ntrials      {folder}/trials.md, trials.json")
    return int(any(row["score"] is None for row in rows))


def suggestions(path: Path, sweep: dict[str, Any]) -> Iterator[Any]:
    """Yield rounds of trials, each a dict by parameter; takes the scores of a round (None: failed) by `send`."""
    parameters, cap = sweep["parameters"], sweep.get("run_cap", math.inf)
    if sweep["method"] == "grid":
        choices = [spec["values"] if "values" in spec else [spec["value"]] for spec in parameters.values()]
        grid = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]
        yield grid[: int(min(cap, len(grid)))]
        return
    optuna = import_optuna()
    sampler = optuna.samplers.RandomSampler(seed=0)
    if sweep["method"] == "bayes":
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=2 * ROUND, constant_liar=True)
    study = optuna.create_study(direction=sweep["metric"]["goal"], sampler=sampler)
    for first in range(0, cap, ROUND):
        trials = [study.ask() for _ in range(min(ROUND, cap - first))]
        scores = yield [{n: suggest(t, n, kind(path, n, s), s) for n, s in parameters.items()} for t in trials]
        for trial, score in zip(trials, scores, strict=True):
            if score is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score)


def suggest(trial: Any, name: str, how: str, spec: dict[str, Any]) -> Any:
    """Return the value of a parameter for one of Optuna's trials."""
    if how == "value":
        return spec["value"]
    if how == "values":
        return trial.suggest_categorical(name, spec["values"])
    if how == "int_uniform":
        return trial.suggest_int(name, spec["min"], spec["max"])
    value = trial.suggest_float(name, spec["min"], spec["max"], log=how == "log_uniform_values")
    return float(f"{value:.4g}")  # what the command line says is what is trained


def import_optuna() -> Any:
    """Return Optuna, which speaks only when something is wrong.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError('random and bayes need Optuna: pip install "genmeta[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def score_of(run: Run, metric: str) -> float | None:
    """Return the metric of a finished run at its best checkpoint, else None."""
    if not run.finished:
        return None
    summary = run.summary
    value = summary.get("best", {}).get(metric, summary["metrics"].get(metric))
    if value is None:
        raise UserError(f"metric.name: '{metric}' is not among what the runs log: {', '.join(summary['metrics'])}")
    return float(value)


def table(done: Sequence[tuple[dict[str, Any], Run]], metric: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """Return a Markdown table of all trials, best first, a sentence about the best, and the rows."""
    sign = -1 if metric["goal"] == "maximize" else 1
    rows = [
        {"parameters": chosen, "score": score_of(run, metric["name"]), "folder": str(run.folder)}
        for chosen, run in done
    ]
    rows.sort(key=lambda row: math.inf if row["score"] is None else sign * row["score"])
    names = list(rows[0]["parameters"])
    cells = [[*names, metric["name"], "run"]]
    for row in rows:
        score = "failed" if row["score"] is None else f"{row['score']:.4f}"
        cells.append([*(str(row["parameters"][name]) for name in names), score, row["folder"]])
    text, best = markdown_table(cells), rows[0]
    if best["score"] is not None:
        chosen = " ".join(f"--{name}={value}" for name, value in best["parameters"].items())
        text += f"\n\nBest {metric['name']} {best['score']:.4f}: {chosen}"
    return text, rows


def online(path: Path, sweep: dict[str, Any]) -> int:
    """Make a W&B sweep and work it off in this process's place."""
    if not has_account():
        raise UserError("--online: no W&B account found; wandb login, or set WANDB_API_KEY, or leave --online out")
    wandb = (sys.executable, "-m", "wandb")
    made = subprocess.run([*wandb, "sweep", "--project", project(), str(path)], capture_output=True, text=True)
    print(made.stdout + made.stderr, end="")
    found = re.search(r"wandb agent (\S+)", made.stdout + made.stderr)
    if made.returncode or not found:
        raise UserError("--online: W&B did not make the sweep; see above")
    cap = ["--count", str(sweep["run_cap"])] if "run_cap" in sweep else []
    path_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the agent calls `python`
    return subprocess.run([*wandb, "agent", *cap, found[1]], env={**os.environ, "PATH": path_first}).returncode


if __name__ == "__main__":
    sys.exit(main())
