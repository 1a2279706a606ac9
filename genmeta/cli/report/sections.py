"""From the content of a folder to a section of the page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from genmeta.cli.report.accuracies import (
    EPISODES,
    accuracy_table,
    axis_blocks,
    comparisons_table,
    seeds_table,
)
from genmeta.cli.report.answer import answer_blocks
from genmeta.cli.report.curves import curves
from genmeta.cli.report.folders import RESULTS_FILE, Experiment, Exploration, Folder, Run, explorations_in, pictures_in
from genmeta.cli.report.lineage import lineage
from genmeta.cli.report.options import differences, flat
from genmeta.cli.report.pictures import Album, Shown, chosen
from genmeta.evaluation.tables import shape_title
from genmeta.experiments.results import full_title
from genmeta.experiments.run_folder import DEBUG_NOTE
from genmeta.modules.class_files import CONFUSION_FILE, PER_CLASS_FILE
from genmeta.pages.blocks import Block, Figure, Figures, Part, Section, Table, Text
from genmeta.pages.titles import title_of

_MOST_COLUMNS = 12  # of a table of options
_HARDEST = 10  # classes in a table
_MOST_ROWS = 8  # of the environment; more are folded away


class OpenSection:
    """A section without its pictures. Once the pictures of all sections are known, `finish` makes the section."""

    def __init__(self, title: str, subtitle: str, album: Album, warning: str = "") -> None:
        self.title, self.subtitle, self.warning, self.album = title, subtitle, warning, album
        self.parts: list[tuple[str, Sequence[Block], Sequence[Shown]]] = []
        self.configs: dict[str, Mapping[str, Any]] = {}

    def add(self, title: str, blocks: Sequence[Block]) -> None:
        """Add a part."""
        self.parts.append((title, blocks, ()))

    def add_pictures(self, title: str, shown: Sequence[Shown]) -> None:
        """Add a part of pictures."""
        self.album.add(shown)
        self.parts.append((title, (), shown))

    def finish(self, figure_of: Callable[[Shown], Figure | str]) -> Section:
        """Return the section."""
        parts = []
        for title, blocks, shown in self.parts:
            made = [figure_of(one) for one in shown]
            figures = [one for one in made if isinstance(one, Figure)]
            left_out = [Text(one) for one in made if isinstance(one, str)]
            parts.append(Part(title, [*blocks, *([Figures(figures)] if figures else []), *left_out]))
        return Section(self.title, self.subtitle, parts, self.warning)


def open_section(folder: Folder, title: str, album: Album) -> OpenSection:
    """Return the section of a folder."""
    if isinstance(folder, Run):
        return _run(folder, title, album)
    return _experiment(folder, title, album) if isinstance(folder, Experiment) else _exploration(folder, title, album)


def _run(run: Run, title: str, album: Album) -> OpenSection:
    stage = str(run.summary.get("stage") or "run")
    kind = {"fit": "training", "test": "test", "validate": "validation"}.get(stage, "run")
    section = OpenSection(title, f"{kind} in {run.path}", album, f"{_debug([run])} {_unfinished([run])}".strip())
    section.configs = {stage: run.config}
    section.add("Results", _results_of_run(run))
    section.add("Classes", _classes(run))
    section.add("Training curves", curves([run]))
    section.add_pictures("Pictures", chosen(run.pictures))
    _add_explorations(section, run)
    section.add("Configuration", [_all_options(run)])
    _add_origin(section, [run])
    return section


def _results_of_run(run: Run) -> list[Block]:
    blocks: list[Block] = []
    if accuracies := run.summary.get("episode_accuracies"):
        blocks.append(accuracy_table({}, {run.label: accuracies}, f"accuracy in %, {EPISODES}"))
    metrics = run.summary.get("metrics") or {}
    rows = []
    for name, value in metrics.items():
        if not name.endswith("_ci95"):
            half = metrics.get(f"{name}_ci95")
            rows.append([name, f"{value:.4g}" + (f" ± {half:.2g}" if isinstance(half, float) else "")])
    best = [[f"best {name}", f"{value:.4g}"] for name, value in (run.summary.get("best") or {}).items()]
    if best or rows:
        caption = "at the end, and at the best checkpoint; ±: 95 % interval over episodes"
        blocks.append(Table(["metric", "value"], [*best, *rows], caption))
    if report := run.summary.get("report"):
        features = f"; features: {run.summary['features']}" if "features" in run.summary else ""
        rows = [[name.replace("_", " "), f"{value:.4g}"] for name, value in report.items()]
        blocks.append(Table(["metric", "value"], rows, f"the best checkpoint, measured once more{features}"))
    return blocks


def _classes(run: Run) -> list[Block]:
    """Return a table of the hardest classes of each kind of test episodes."""
    blocks: list[Block] = []
    for shape, rows in run.classes.items():
        lowest = sorted(rows, key=lambda row: float(row["accuracy"]))[:_HARDEST]
        cells = [
            [
                row["class"],
                f"{100 * float(row['accuracy']):.1f}",
                row["queries"],
                row["taken_for"] and f"{row['taken_for']} ({row['chosen']} of {row['offered']})",
            ]
            for row in lowest
        ]
        caption = (
            f"{shape_title(shape)}: the {len(lowest)} hardest of {len(rows)} classes, accuracy in %; all in "
            f"{PER_CLASS_FILE}, pairs in {CONFUSION_FILE} of the run's folder"
        )
        blocks.append(
            Table(["class", "accuracy", "queries", "most taken for (of the times that it was offered)"], cells, caption)
        )
    return blocks


def _experiment(experiment: Experiment, title: str, album: Album) -> OpenSection:
    results = experiment.results
    kind = "comparison of arms over seeds" if results.get("kind") in ("comparison", "curves") else "experiment"
    warning = _unfinished(experiment.runs)
    if not results:
        warning = f"There is no {RESULTS_FILE}: not finished, or a folder of single runs. {warning}".strip()
    if note := _debug(experiment.runs) or (DEBUG_NOTE if results.get("debug") else ""):
        warning = f"{note} {warning}".strip()
    section = OpenSection(title, f"{kind} in {experiment.path}", album, warning)
    fits = experiment.fits
    one_each = _one_seed(fits) if experiment.is_comparison else dict(fits)
    section.configs = {arm: run.config for arm, run in one_each.items()}
    section.add("Answer", answer_blocks(results, experiment.points.get(None, {})))
    if experiment.is_comparison:
        _add_comparison(section, experiment)
    else:
        _add_tests(section, experiment)
    section.add("Training curves", curves(list(fits.values())))
    section.add_pictures("Plots", chosen(pictures_in(experiment.path)))
    section.add_pictures(
        "Pictures", [shown for arm, run in one_each.items() for shown in chosen(run.pictures, f"{arm}, ")]
    )
    tests = _one_seed(experiment.tests) if experiment.is_comparison else {}
    section.add_pictures(
        "Pictures of tests", [shown for arm, run in tests.items() for shown in chosen(run.pictures, f"{arm}, ")]
    )
    section.add("What the arms differ in", _differences(section.configs))
    _add_origin(section, experiment.runs)
    return section


def _one_seed(fits: Mapping[str, Run]) -> dict[str, Run]:
    first: dict[str, Run] = {}
    for run in fits.values():
        first.setdefault(run.column, run)
    return first


def _add_comparison(section: OpenSection, experiment: Experiment) -> None:
    results, points = experiment.results, experiment.points
    titles = {name: full_title(arm, arms) for arms in points.values() for name, arm in arms.items()}
    blocks: list[Block] = [Text(line, strong=True) for line in str(results.get("sentence") or "").splitlines()]
    if over := results.get("over"):
        blocks += axis_blocks(str(over["title"]), points)
    else:
        blocks.append(seeds_table(points[None]))
    section.add("Accuracies", blocks)
    section.add("Paired differences", comparisons_table(titles, results.get("comparisons") or []))
    facts = ("data", "learner", "control", "seeds", "part", "seconds", "commit")
    rows = [[name, str(results[name])] for name in facts if name in results]
    hashes = [("split " + str(split.get("name")), split.get("hash")) for split in [results.get("split") or {}] if split]
    hashes += [(f"episodes {shape_title(shape)}", h) for shape, h in (results.get("episodes") or {}).items()]
    rows += [[name, str(digest)] for name, digest in hashes]
    section.add("Comparison", [Table(["", ""], rows)] if rows else [])


def _add_tests(section: OpenSection, experiment: Experiment) -> None:
    """Add the results of the tests."""
    tested = {label: run.summary.get("episode_accuracies") for label, run in experiment.tests.items()}
    accuracies = {label: values for label, values in tested.items() if values}
    if accuracies:
        titles = {label: label for label in accuracies}
        caption = f"accuracy in %, {EPISODES}; arrows: beyond the end of the strip"
        section.add("Accuracies", [accuracy_table(titles, accuracies, caption)])


def _exploration(exploration: Exploration, title: str, album: Album) -> OpenSection:
    section = OpenSection(title, f"exploration of a latent space in {exploration.path}", album)
    _add_exploration(section, exploration)
    return section


def _add_explorations(section: OpenSection, run: Run) -> None:
    for exploration in explorations_in(run.path):
        _add_exploration(section, exploration, f"Latent space ({exploration.path.name})")


def _add_exploration(section: OpenSection, exploration: Exploration, title: str = "Latent space") -> None:
    content = exploration.content
    generator, data = content.get("generator") or {}, content.get("data") or {}
    rows = [
        ["generator", str(generator.get("checkpoint", ""))],
        ["latent dimensions", str(generator.get("latent_dim", ""))],
        ["active dimensions", str(content.get("active_units", ""))],
        ["its split", _hashed(generator.get("split") or {})],
        ["images", f"{data.get('n_images', '')} of {len(data.get('classes', []))} classes"],
        ["their split", _hashed(data.get("split") or {})],
    ]
    section.add(title, [Table(["", ""], [row for row in rows if row[1]])])
    captions = content.get("captions") or {}
    shown = [
        (path, f"{title_of(path.stem)}: {captions.get(path.stem, '')}".rstrip(": "))
        for path in pictures_in(exploration.path)
    ]
    maps = [one for one in shown if one[0].stem.startswith("map-")]
    section.add_pictures("Latent maps", maps)
    section.add_pictures("Walks in latent space", [one for one in shown if one not in maps])


def _hashed(split: Mapping[str, Any]) -> str:
    return f"{split['name']} ({split['hash']})" if split.keys() >= {"name", "hash"} else ""


def _unfinished(runs: Iterable[Run]) -> str:
    names = []
    for run in runs:
        if not run.finished:
            steps = max((points[-1][0] for points in run.metrics.values()), default=None)
            names.append(f"{run.label} ({f'metrics up to step {steps:g}' if steps is not None else 'no metrics yet'})")
    return f"Not finished (no run.json): {', '.join(names)}; this is what is there." if names else ""


def _debug(runs: Sequence[Run]) -> str:
    """Return the note on debug runs, "" if there are none."""
    return DEBUG_NOTE if any((run.config.get("run") or {}).get("debug") for run in runs) else ""


def _all_options(run: Run) -> Table:
    rows = [[name, value] for name, value in flat(run.config).items()]
    return Table(["option", "value"], rows, names=True, folded=f"all {len(rows)} options")


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    if len(configs) < 2:
        return []
    shown = dict(list(configs.items())[:_MOST_COLUMNS])
    rows = differences([flat(config) for config in shown.values()])
    if not rows:
        return [Text("No option differs but for names and folders.")]
    left = f" (of {len(configs)}, the first {len(shown)})" if len(shown) < len(configs) else ""
    caption = f"options that differ{left}; –: the part that has this option is not in the run"
    return [Table(["option", *shown], rows, caption, names=True)]


def differences_between(sections: Sequence[OpenSection]) -> list[Part]:
    """Return the differences between the runs of several sections: of arms with the same name, then of the others."""
    by_label: dict[str, dict[str, Mapping[str, Any]]] = {}
    for section in sections:
        for label, config in section.configs.items():
            by_label.setdefault(label, {})[section.title] = config
    shared = {label: configs for label, configs in by_label.items() if len(configs) > 1}
    parts = [Part(label, _differences(configs)) for label, configs in shared.items()]
    left = {
        f"{title}, {label}": config
        for label, c in by_label.items()
        if label not in shared
        for title, config in c.items()
    }
    if len({name.split(", ")[0] for name in left}) > 1:
        parts.append(Part("others", _differences(left)))
    return parts


def _add_origin(section: OpenSection, runs: Sequence[Run]) -> None:
    section.add("Lineage", lineage(runs))
    section.add("Data", [*_pictures(runs), *_notes(runs)])
    section.add("Environment", _environment(runs))
    section.add("Hashes", _hashes(runs))


def _pictures(runs: Sequence[Run]) -> list[Block]:
    """Return how many files of the data sets were used and passed over."""
    labels_of: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        account = run.summary.get("pictures")
        if isinstance(account, Mapping):
            passed_over = account.get("passed_over") or {}
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in passed_over.items()) or "nothing"
            row = (*(f"{account.get(key, 0):,}" for key in ("found", "used")), reasons, f"{account.get('litter', 0):,}")
            labels_of.setdefault((str(account.get("what")), *row), []).append(run.label)
    rows = [[*row, _listed(labels)] for row, labels in labels_of.items()]
    caption = "litter: files that systems and archives leave in folders"
    return [Table(["of", "found", "used", "passed over", "litter", "runs"], rows, caption)] if rows else []


def _notes(runs: Sequence[Run]) -> list[Block]:
    """Return the settings that runs changed to be able to run."""
    labels_of: dict[str, list[str]] = {}
    for run in runs:
        for note in run.summary.get("notes") or []:
            labels_of.setdefault(str(note), []).append(run.label)
    rows = [[note, _listed(labels)] for note, labels in labels_of.items()]
    return [Table(["note", "runs"], rows)] if rows else []


def _environment(runs: Sequence[Run]) -> list[Block]:
    rows = []
    for run in runs:
        options, summary = flat(run.config), run.summary
        versions = dict(summary.get("versions") or {})
        if run.lightning:
            versions.setdefault("lightning", run.lightning)
        asked = f"{options.get('trainer.accelerator', '')}, {options.get('trainer.devices', '')}"
        device = str(summary.get("device") or f"asked for: {asked}")
        rows.append(
            [
                f"{run.label}, {summary.get('stage', 'not finished')}",
                ", ".join(f"{name} {version}" for name, version in versions.items()),
                str(summary.get("commit") or ""),
                device,
                options.get("trainer.precision", "").replace("null", "32-true"),
                options.get("seed_everything", ""),
                f"{summary['seconds']:,.0f}" if isinstance(summary.get("seconds"), int | float) else "",
            ]
        )
    columns = ["run", "versions", "commit", "device", "precision", "seed", "seconds"]
    caption = "a + after a commit: files were changed since"
    if len(rows) <= _MOST_ROWS:
        return [Table(columns, rows, caption)] if rows else []
    facts = [
        f"{name}: {'; '.join(dict.fromkeys(row[i] for row in rows))}" for i, name in ((1, "versions"), (2, "commit"))
    ]
    facts.append(f"device: {'; '.join(dict.fromkeys(row[3] for row in rows))}")
    return [Text(". ".join(facts) + "."), Table(columns, rows, caption, folded=f"all {len(rows)} runs")]


def _hashes(runs: Sequence[Run]) -> list[Block]:
    labels_of: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        split = run.summary.get("split") or {}
        if split:
            labels_of.setdefault((f"split {split.get('name')}", str(split.get("hash"))), []).append(run.label)
        for name, digest in (run.summary.get("episodes") or {}).items():
            stage, _, shape = str(name).partition("/")
            what = f"episodes: {stage}{f' {shape_title(shape)}' if shape else ''}"
            labels_of.setdefault((what, str(digest)), []).append(run.label)
    rows = [[what, digest, _listed(list(dict.fromkeys(labels)))] for (what, digest), labels in labels_of.items()]
    several = sorted({what for what, _ in labels_of if sum(what == other for other, _ in labels_of) > 1})
    blocks: list[Block] = [Table(["of", "content hash", "runs"], rows)] if rows else []
    if several:
        what = f"Not the same in all runs: {', '.join(several)}. Accuracies on different episodes do not compare."
        blocks.insert(0, Text(what, strong=True))
    return blocks


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MOST_ROWS} more" if len(labels) > _MOST_ROWS else ""
    return ", ".join(labels[:_MOST_ROWS]) + more
