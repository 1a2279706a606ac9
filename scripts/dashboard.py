"""Build the W&B workspace and the report of the project: python scripts/dashboard.py [--out runs/dashboard]

With an account both are saved in the project (`WANDB_PROJECT`, or genmeta; `WANDB_ENTITY`, or your own). Without one
they are written as JSON, as they would be saved. The keys of all panels stand in SECTIONS; a test reads short runs back
and checks that each of them is logged.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmeta.cli.tracking import IMAGES, STEP, has_account, project

TITLE = "genmeta"
IS_OPEN = ("Comparison", "Validation", "Test")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: `line` over an axis, `bar` of summaries, `media` (pictures, histograms), `table`.
        title: above it.
        keys: what is shown, as it is logged.
        x: axis of a line.
    """

    kind: str
    title: str
    keys: tuple[str, ...]
    x: str = STEP


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Comparison": (
        Panel("table", "arms, with intervals over episodes and over seeds", ("tables/arms",)),
        Panel("table", "paired differences from the control", ("tables/differences",)),
        Panel("media", "arms", ("pictures/results",)),
    ),
    "Losses": (
        Panel("line", "training loss", ("train/loss",)),
        Panel("line", "GAN: discriminator, generator, encoder", ("train/loss_d", "train/loss_g", "train/loss_e")),
        Panel("line", "GAN: right answers of the discriminator", ("train/acc_d_real", "train/acc_d_fake")),
        Panel("line", "VAE: bound (nats)", ("train/elbo", "val/elbo")),
        Panel("line", "VAE: KL divergence (nats)", ("train/kl", "val/kl")),
        Panel("line", "redrawer: error", ("train/error",)),
    ),
    "Accuracy by source": (
        Panel("line", "on real queries", ("train/acc_real",), IMAGES),
        Panel("line", "on redrawn queries", ("train/acc_redrawn",), IMAGES),
        Panel("line", "on decoded queries", ("train/acc_decoded",), IMAGES),
        Panel("line", "of all", ("train/acc",), IMAGES),
    ),
    "What is generated": (
        Panel("line", "share of redrawn and of decoded images", ("train/redrawn_share", "train/decoded_share")),
        Panel("line", "share of made-up classes", ("train/made_up_share",)),
    ),
    "Validation": (
        Panel("line", "accuracy over training images", ("val/acc",), IMAGES),
        Panel("line", "half width of its 95 % interval", ("val/acc_ci95",), IMAGES),
        Panel("line", "loss", ("val/loss",), IMAGES),
        Panel("line", "FID, own features", ("val/fid",), IMAGES),
        Panel("line", "KID", ("val/kid",), IMAGES),
        Panel("line", "precision and recall", ("val/precision", "val/recall"), IMAGES),
        Panel("line", "density and coverage", ("val/density", "val/coverage"), IMAGES),
        Panel("line", "diversity (real images: 1)", ("val/diversity",), IMAGES),
    ),
    "Test": (
        Panel("bar", "5-way 1-shot", ("test/acc_5w1s",)),
        Panel("bar", "5-way 1-shot: half width of the 95 % interval", ("test/acc_5w1s_ci95",)),
        Panel("bar", "5-way 5-shot", ("test/acc_5w5s",)),
        Panel("bar", "5-way 5-shot: half width of the 95 % interval", ("test/acc_5w5s_ci95",)),
        Panel("table", "results with intervals", ("tables/results",)),
        Panel("table", "worst queries of the worst episodes", ("tables/episodes",)),
        Panel("media", "which classes are taken for which", ("pictures/confusion",)),
    ),
    "Samples": (
        Panel("media", "samples", ("pictures/samples",)),
        Panel("media", "held-out images and their reconstructions", ("pictures/reconstructions",)),
        Panel("media", "images of validation classes, redrawn", ("pictures/redrawn",)),
        Panel("bar", "FID of the best checkpoint", ("report/fid",)),
        Panel("bar", "recognisability of generated classes", ("report/recognisability",)),
        Panel("bar", "memorisation (held-out images: 1)", ("report/memorisation",)),
    ),
    "Episodes": (
        Panel("media", "first training episodes", ("pictures/episodes",)),
        Panel("media", "accuracies of test episodes", ("episodes/acc_5w1s", "episodes/acc_5w5s")),
        Panel("media", "audited episodes", ("audit/episodes",)),
    ),
    "Latent space": (
        Panel("media", "from code to code", ("pictures/interpolation",)),
        Panel("media", "map of the codes", ("explore/map-pca",)),
        Panel("table", "clusters", ("explore/clusters",)),
        Panel("table", "what each dimension carries", ("explore/latent_dimensions",)),
    ),
}
GROUPED_BY = ("Group", "config.experiment_version", "JobType", "config.arm")
"""A bar, or a line, is the mean of these: seeds of one arm of one experiment. A run by itself is an arm of its own."""

IN_REPORT = {
    "Comparison": "Which arm, by how much, how sure: the sentence stands in the run's notes. Differences are paired, "
    "on the same episodes.",
    "Test": "Accuracy on classes that neither generator nor learner has seen. A bar is an arm, the mean over its "
    "seeds: compare arms by their paired differences, not by bars that overlap.",
    "Validation": "What checkpoints and settings are chosen by.",
    "Accuracy by source": "Training accuracy on real and on generated images: generated ones that are far easier "
    "teach little.",
    "Samples": "What the generators draw.",
    "Latent space": "What lies in the latent space (genmeta explore).",
}


def main(args: Sequence[str] | None = None) -> int:
    """Save or write workspace and report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/dashboard"), help="folder of the JSON files")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY", ""), help="W&B user or team")
    options = parser.parse_args(args)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        print('dashboard: error: needs wandb-workspaces: pip install "genmeta[dashboards]"', file=sys.stderr)
        return 2
    online = has_account()
    entity = options.entity
    if online and not entity:
        import wandb

        entity = wandb.Api().default_entity
    board, text = workspace(entity, project()), report(entity if online else "", project())
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in (("workspace", board), ("report", text)):
        (options.out / f"{name}.json").write_text(as_json(content), encoding="utf-8")
    print(f"written     {options.out}/workspace.json, report.json")
    if not online:
        print("not saved   no W&B account found: wandb login (or set WANDB_API_KEY), then make dashboard saves both;")
        print("            make sync sends the runs that they show")
        return 0
    board.save()
    text.save()
    print(f"saved       {board.url}\n            {text.url}")
    return 0


def workspace(entity: str, name: str) -> Any:
    """Return the workspace: a section for each of `SECTIONS`."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=title, panels=[draw(panel) for panel in panels], is_open=title in IS_OPEN)
        for title, panels in SECTIONS.items()
    ]
    grouped = [ws.Config(key.removeprefix("config.")) if "." in key else ws.Metric(key) for key in GROUPED_BY]
    return ws.Workspace(
        name=TITLE,
        entity=entity,
        project=name,
        sections=sections,
        runset_settings=ws.RunsetSettings(groupby=grouped),
        auto_generate_panels=False,
    )


def report(entity: str, name: str) -> Any:
    """Return the report: text, and the panels of the sections in `IN_REPORT`."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [
        wr.P("Did generated knowledge help a few-shot learner? Runs are grouped by experiment, job type and arm."),
        wr.TableOfContents(),
    ]
    for title, text in IN_REPORT.items():
        runs = wr.Runset(entity=entity, project=name if entity else "", name="all runs", groupby=list(GROUPED_BY))
        panels = [draw(panel) for panel in SECTIONS[title]]
        blocks += [wr.H2(title), wr.P(text), wr.PanelGrid(runsets=[runs], panels=panels)]
    description = "Written by scripts/dashboard.py; change it there."
    return wr.Report(entity=entity, project=name, title=TITLE, description=description, blocks=blocks)


def draw(panel: Panel) -> Any:
    """Return W&B's panel."""
    import wandb_workspaces.reports.v2 as wr

    if panel.kind == "line":
        return wr.LinePlot(title=panel.title, x=panel.x, y=list(panel.keys))
    if panel.kind == "bar":
        return wr.BarPlot(title=panel.title, metrics=list(panel.keys))
    if panel.kind == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys))
    (key,) = panel.keys
    return wr.WeavePanelSummaryTable(table_name=key)


def as_json(content: Any) -> str:
    """Return what W&B would be sent."""
    return str(content._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
