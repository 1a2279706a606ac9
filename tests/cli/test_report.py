"""The report: reading run folders, tables, curves, pictures, and the page in a browser."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from browser import assert_stands_alone, count, json_of, needs_browser, visit
from PIL import Image
from test_cli import assert_one_line

from genmeta.cli.main import main
from genmeta.cli.report.command import report_page
from genmeta.cli.report.options import ABSENT, differences, flat
from genmeta.cli.report.pictures import Album, chosen
from genmeta.pages.blocks import Figure
from genmeta.pages.charts import Series, chart, running_mean, ticks
from genmeta.pages.secrets import HIDDEN, hide

CONFIG = {
    "seed_everything": 0,
    "trainer": {"accelerator": "auto", "devices": "1", "precision": None},
    "model": {"class_path": "a.Module", "init_args": {"learner": {"class_path": "a.ProtoNet", "init_args": {"n": 3}}}},
    "data": {"class_path": "a.Data", "init_args": {"train_tasks": {"class_path": "a.Real"}, "redrawer": None}},
    "ckpt_path": None,
}


def write_run(folder: Path, stage: str = "fit", config: dict | None = None, finished: bool = True, **summary) -> Path:
    """A run folder as genmeta writes it."""
    (folder / "pictures").mkdir(parents=True)
    where = {"folder": str(folder.parent.parent), "name": folder.parent.name, "version": folder.name}
    text = yaml.safe_dump({**CONFIG, **(config or {}), "run": where}, sort_keys=False)
    (folder / "config.yaml").write_text(f"# lightning.pytorch==2.6.6\n{text}")
    if stage == "fit":
        lines = ["epoch,step,train/acc,train/loss,val/acc,val/acc_ci95,val/loss"]
        lines += [f"0,{step},{1 - 1 / (step + 2)},{2 / (step + 1)},,," for step in range(9, 600, 10)]
        lines += [f"{e},{100 * e + 99},,,{0.8 + 0.02 * e},0.01,{0.5 - 0.05 * e}" for e in range(6)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        Image.new("RGB", (60, 40), (40, 90, 200)).save(folder / "pictures" / "episodes.png")
    if finished:
        content = {
            "stage": stage,
            "seconds": 12.5,
            "metrics": {},
            "split": {"name": "toy", "hash": "0123456789abcdef"},
            "versions": {"python": "3.11.7", "torch": "2.14"},
            "commit": "abcdef123456",
            "device": "cpu, 1 thread",
            **summary,
        }
        (folder / "run.json").write_text(json.dumps(content))
    return folder


def accuracies(shift: float = 0.0, n: int = 30) -> list[float]:
    return [0.7 + 0.2 * math.sin(i) + shift + 0.01 * math.cos(3 * i + 100 * shift) for i in range(n)]


def write_experiment(folder: Path) -> Path:
    arms: dict[str, dict] = {}
    for arm, shift, seed in (("mixed", 0.05, 0), ("mixed", 0.07, 1), ("real_only", 0.0, 0), ("real_only", 0.01, 1)):
        values = {"5w1s": accuracies(shift)}
        here = folder / f"{arm}-seed{seed}"
        redrawer = str(folder.parent.parent / "gen" / "001" / "checkpoints" / "best.ckpt")
        tasks = {"class_path": "a.Mixed", "init_args": {"share": 0.5}} if arm == "mixed" else {"class_path": "a.Real"}
        data = {"data": {"class_path": "a.Data", "init_args": {"train_tasks": tasks, "redrawer": redrawer}}}
        fit = write_run(here / "fit", config=data, episodes={"val": "eeee"}, steps=600, best={"val/acc": 0.9})
        config = {**data, "ckpt_path": str(fit / "checkpoints" / "best.ckpt")}
        hashes = {"test/5w1s": "ffff"}
        write_run(here / "test", "test", config, episodes=hashes, episode_accuracies=values)
        entry = arms.setdefault(arm, {"title": f"arm {arm}", "accuracies": {"5w1s": {}}, "fits": {}, "tests": {}})
        entry["accuracies"]["5w1s"][str(seed)] = values["5w1s"]
        entry["fits"][str(seed)], entry["tests"][str(seed)] = f"{here.name}/fit", f"{here.name}/test"
    difference = {"arm": "mixed", "control": "real_only", "shape": "5w1s", "difference": 0.055, "ci95_episodes": 0.01}
    results = {"kind": "experiment", "arms": arms, "episodes": {"test/5w1s": "ffff"}, "seeds": [0, 1], "seconds": 60}
    results |= {"comparisons": [difference | {"of_seeds": {"0": 0.05, "1": 0.06}}], "sentence": "undecided"}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_comparison(folder: Path) -> Path:
    arms = {}
    for arm, shift in (("control", 0.0), ("mixed", 0.05), ("latent", -0.1)):
        runs: dict[str, dict[str, str]] = {"fits": {}, "tests": {}}
        for seed in range(3):
            fit = write_run(folder / f"{arm}-{seed}" / "a1b2c3", config={"seed_everything": seed})
            test = write_run(folder / f"{arm}-{seed}-test" / "d4e5", "test", episodes={"test/5w1s": "ffff"})
            runs["fits"][str(seed)] = str(fit.relative_to(folder))
            runs["tests"][str(seed)] = str(test.relative_to(folder))
        of_seeds = {str(seed): accuracies(shift + 0.002 * seed) for seed in range(3)}
        arms[arm] = {"title": f"arm {arm}", "accuracies": {"5w1s": of_seeds}, **runs}
    comparisons = [
        {"arm": arm, "control": "control", "shape": "5w1s", "difference": d, "ci95_episodes": 0.004}
        | {"ci95_seeds": None, "p": 1e-5, "p_holm": 2e-5, "effect_size": 1.234}
        for arm, d in (("mixed", 0.05), ("latent", -0.1))
    ]
    results = {
        **{"kind": "comparison", "name": "toy", "data": "glyphs", "learner": "protonet", "control": "control"},
        **{"seeds": [0, 1, 2], "split": {"name": "toy", "hash": "0123456789abcdef"}, "episodes": {"5w1s": "ffff"}},
        **{"seconds": 99.0, "commit": "abcdef123456", "arms": arms, "comparisons": comparisons},
        **{"answer": "5-way 1-shot: 'arm mixed' is better than 'arm control'.", "controls": ["control", "latent"]},
        "sentence": "arm mixed won by 5.0 points.",
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def text_of(page: str) -> str:
    """The page's words without its style, scripts and pictures."""
    import re

    body = re.sub(r"(?s)<(style|script)\b.*?</\1>|<svg.*?</svg>", "", page.split("<body>")[1])
    return " ".join(re.sub(r"<wbr>", "", re.sub(r"<(?!wbr)[^>]*>", " ", body)).split())


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    broken = write_run(tmp_path / "broken" / "001")
    (broken / "run.json").write_text('{"stage": ')
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text('{"arms": {"a": [1]}}')
    for run, said in (("empty", "has none of config.yaml"), ("nowhere", "is not there"), ("other", "no arms")):
        assert main(["report", str(tmp_path / run), "--out", str(tmp_path / "r.html")]) == 2
        assert_one_line(capsys, f"RUN: .*{run}.*{said}")
    assert main(["report", str(broken), "--out", str(tmp_path / "r.html")]) == 2
    assert_one_line(capsys, "run.json cannot be read")
    assert not (tmp_path / "r.html").exists()


def test_out_is_never_something_else(tmp_path, capsys):
    run = str(write_run(tmp_path / "toy" / "001"))
    out = tmp_path / "page.html"
    out.write_text("<html>my own page</html>")
    assert main(["report", run, "--out", str(out)]) == 2
    assert_one_line(capsys, "page.html exists and is no report")
    assert main(["report", run, "--out", str(tmp_path)]) == 2
    assert_one_line(capsys, "is a folder")
    assert main(["report", run, "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert_one_line(capsys, "there is no folder")
    out.unlink()
    for _ in range(2):  # an earlier report is overwritten
        assert main(["report", run, "--out", str(out)]) == 0
    assert "toy/001" in out.read_text()


def test_an_unfinished_run_is_said_to_be_so_with_what_is_there(tmp_path):
    run = write_run(tmp_path / "toy" / "001", finished=False)
    with (run / "metrics.csv").open("a") as file:
        file.write("7,609,0.5")  # cut off while it was written
    page = text_of(report_page([run]))
    assert "Not finished (no run.json): 001 (metrics up to step 609)" in page
    assert "Training curves" in page
    assert "Results" not in page


def test_an_unfinished_experiment_shows_the_tests_that_are_there(tmp_path):
    experiment = write_experiment(tmp_path / "exp" / "001")
    (experiment / "results.json").unlink()
    (experiment / "real_only-seed0" / "test" / "run.json").unlink()
    page = text_of(report_page([experiment]))
    assert "There is no results.json" in page
    assert "Not finished (no run.json): real_only-seed0" in page
    assert "mixed-seed0 75." in page


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_an_experiment_shows_everything_that_its_folder_says(tmp_path):
    generator = write_run(tmp_path / "gen" / "001", steps=1000, best={"val/elbo": 414.2})
    page = report_page([write_experiment(tmp_path / "exp" / "001")])
    words = text_of(page)
    means = [100 * sum(accuracies(shift)) / 30 for shift in (0.05, 0.07)]
    assert f"arm mixed {sum(means) / 2:.2f} ±" in words
    assert "arm mixed − arm real_only 5-way 1-shot +5.50 ± 1.00 0: +5.00, 1: +6.00" in words
    assert "undecided" in words
    assert "effect size" not in words
    assert "data.train_tasks.share 0.5 –" in words  # only real_only lacks it
    assert "trainer.accelerator" not in words  # the same in both
    for part in ("Accuracies", "Paired differences", "Training curves", "Lineage", "Environment", "Hashes"):
        assert f">{part}</h3>" in page
    assert "python 3.11.7, torch 2.14, lightning 2.6.6" in words
    assert "cpu, 1 thread" in words
    assert "episodes: test 5-way 1-shot ffff mixed, seed 0" in words
    # the generator's folder is read where it lies; each test stands under its own training
    places = [
        words.index(name) for name in ("gen/001 (trained)", "mixed-seed0/fit (trained)", "mixed-seed0/test (tested)")
    ]
    assert places == sorted(places)
    assert "best val/elbo 414.2" in words
    assert generator.is_dir()
    assert page.count("data:image/png;base64,") == 2
    assert report_page([tmp_path / "exp" / "001"]) == page


def test_a_moved_experiment_keeps_its_own_lineage(tmp_path):
    """Its tests name the old place, where another run may lie by now."""
    old = write_experiment(tmp_path / "exp" / "001")
    moved = tmp_path / "kept"
    old.rename(moved)
    write_run(old / "mixed-seed0" / "fit", commit="other0000000")
    assert "other0000000" not in report_page([moved])


def test_a_comparison_shows_seeds_and_its_sentence(tmp_path):
    words = text_of(report_page([write_comparison(tmp_path / "cmp")]))
    assert "arm mixed won by 5.0 points." in words
    assert "arm mixed − arm control 5-way 1-shot +5.00 ± 0.40 &lt; 0.001 &lt; 0.001 +1.23" in words
    means = [100 * sum(accuracies(0.05 + 0.002 * seed)) / 30 for seed in range(3)]
    assert f"{min(means):.2f} to {max(means):.2f}" in words
    assert "No option differs" not in words or "What the arms differ in" in words
    assert "mixed, seed 2" in words


def test_a_report_opens_with_the_answer_and_its_dots(tmp_path):
    """Bug: the best control is not the line that dots are read against; a ring for an arm, a dot for a control."""
    folder = write_comparison(tmp_path / "cmp")
    page = report_page([folder])
    words = text_of(page)
    assert words.index("&#39;arm mixed&#39; is better than &#39;arm control&#39;.") < words.index(
        "arm mixed won by 5.0"
    )
    [plot] = re.findall(r'(?s)<figure class="dots".*?</figure>', page)
    rows = re.findall(r'(?s)<span class="title">(.*?)</span>\n<span class="plot"><svg.*?</svg>', plot)
    assert rows == ["arm control", "arm mixed", "arm latent"]
    marks = re.findall(r'<circle class="(ring|dot)" cx="([\d.]+)%"', plot)
    assert [kind for kind, _ in marks] == ["ring", "dot", "ring"]
    lines = set(re.findall(r'class="control" x1="([\d.]+)%"', plot))
    assert lines == {marks[0][1]}, "of the two controls the higher"
    places = [float(place) for _, place in marks]
    assert (places[1] - places[0]) / (places[0] - places[2]) == pytest.approx(0.5, abs=0.01), "0.05 and 0.10 apart"
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({k: v for k, v in results.items() if k != "answer"}))
    assert "Answer" not in text_of(report_page([folder])), "of a comparison over an axis, there is none"


def test_a_comparison_over_an_axis_is_drawn_against_it(tmp_path):
    folder = write_comparison(tmp_path / "cmp")
    results = json.loads((folder / "results.json").read_text())
    arms, comparisons = results.pop("arms"), [one | {"value": 10} for one in results["comparisons"]]
    points = [{"value": value, "split": results["split"], "arms": arms} for value in (10, 50, 136)]
    over = {"option": "data.low_data.classes", "title": "real classes", "values": [10, 50, 136]}
    results |= {"kind": "curves", "points": points, "over": over, "comparisons": comparisons, "sentence": ""}
    (folder / "results.json").write_text(json.dumps(results))
    page = report_page([folder])
    assert "real classes = 136" in page
    assert 'aria-label="5-way 1-shot, % over real classes, 10 to 136' in page
    assert "arm mixed − arm control at 10" in text_of(page)


def test_several_folders_are_compared_in_one_page(tmp_path):
    first = write_run(tmp_path / "toy" / "001")
    second = write_run(tmp_path / "toy" / "002", config={"seed_everything": 7})
    page = report_page([first, second])
    words = text_of(page)
    assert "option toy/001 toy/002 seed_everything 0 7" in words
    assert page.count("<section") == 3


def test_different_episodes_are_told(tmp_path):
    experiment = write_experiment(tmp_path / "exp" / "001")
    path = experiment / "mixed-seed0" / "test" / "run.json"
    path.write_text(path.read_text().replace("ffff", "1111"))
    assert "Not the same in all runs: episodes: test 5-way 1-shot" in text_of(report_page([experiment]))


def test_options_are_named_as_on_the_command_line():
    config = {
        "run": {"name": "x"},
        "model": {"class_path": "m.M", "init_args": {"net": {"class_path": "n.N"}, "sizes": [1, 2]}},
        "data": {"class_path": "d.D", "init_args": {"test": [{"n_way": 5}, {"n_way": 20}], "split": None, "on": True}},
    }
    assert flat(config) == {
        **{"model": "m.M", "model.net": "n.N", "model.sizes": "[1, 2]", "data": "d.D"},
        **{"data.test.0.n_way": "5", "data.test.1.n_way": "20", "data.split": "null", "data.on": "true"},
    }
    assert differences([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]) == [["b", "2", "3"], ["c", ABSENT, "4"]]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (9, 1999, ["500", "1,000", "1,500"]),
        (-0.03, 0.02, ["-0.03", "-0.02", "-0.01", "0.00", "0.01", "0.02"]),
    ],
)
def test_ticks_are_round_numbers(low, high, labels):
    assert [label for _, label in ticks(low, high)] == labels


def test_charts_survive_whatever_was_logged():
    assert chart("x", [Series("a", [(0, math.nan), (1, math.inf)])]) is None
    flat_line = chart("x", [Series("a", [(0, 0.0), (1, 0.0)]), Series("one", [(5, 3.0)])])
    assert [line.single for line in flat_line.lines] == [False, True]
    long = chart("x", [Series("a", [(i, i % 7) for i in range(100_000)])])
    assert len(long.lines[0].points) == 400
    assert long.lines[0].points[-1][0] == 99_999
    assert chart("x", [Series("a", [(0, -1e9), (1, 1e9)])]).y_ticks
    assert running_mean([(i, float(i)) for i in range(100)]) == [(i, float(i)) for i in range(100)]


def test_of_pictures_drawn_every_few_epochs_the_first_and_the_last_are_shown():
    paths = [Path(f"samples-epoch-{epoch:04d}.png") for epoch in (0, 5, 10)] + [Path("other.png")]
    assert [path.name for path, _ in chosen(paths)] == ["samples-epoch-0000.png", "samples-epoch-0010.png", "other.png"]


def test_many_large_pictures_are_made_to_fit_and_a_broken_one_is_named(tmp_path):
    for i in range(4):
        Image.effect_noise((500, 320), 100).save(tmp_path / f"p{i}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    shown = chosen(sorted(tmp_path.glob("*.png")))
    album = Album(budget=300_000)
    album.add(shown)
    figure_of = album.figures()
    made = [figure_of(one) for one in shown]
    assert isinstance(made[0], str)
    assert "broken.png cannot be shown" in made[0]
    figures = [one for one in made if isinstance(one, Figure)]
    assert sum(len(one.uri) for one in figures) <= 300_000
    assert len(figures) == 2, "as many as fit at the smallest size that is tried"
    assert [one.partition(":")[0] for one in made[3:]] == ["p2.png is left out", "p3.png is left out"]


# --- safety -----------------------------------------------------------------------------------------------------------

NASTY = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&{{ 7*7 }}"""


def test_everything_from_files_is_escaped(tmp_path):
    comparison = write_comparison(tmp_path / "cmp")
    results = json.loads((comparison / "results.json").read_text())
    results["sentence"] = results["arms"]["mixed"]["title"] = NASTY
    results["arms"][NASTY] = {**results["arms"]["latent"]}
    (comparison / "results.json").write_text(json.dumps(results))
    run = write_run(tmp_path / "<script>x" / "001", config={"odd": {NASTY: NASTY}}, commit=NASTY)
    (run / "metrics.csv").write_text(f'epoch,step,"{NASTY.replace(chr(34), chr(34) * 2)}"\n0,1,2\n0,2,3\n')
    page = report_page([comparison, run])
    assert_stands_alone(page)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "49" not in text_of(page).partition("&amp;")[2][:6]
    assert page.count("&lt;img src=x onerror=") > 3


def test_keys_stay_out(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("MY_TOKEN", "very<secret>&thing")
    config = {
        "logger": {"api_key": "k-in-config", "hub_token": "t-in-config", "n_tokens": 12},
        "note": "key 0123456789abcdef0123456789abcdef01234567, very<secret>&thing",
        "url": "https://me:pass-word@example.org/data",
    }
    run = write_run(tmp_path / "toy" / "001", config=config, commit="hf_abcdefghijklmnopqrstuvwx")
    page = report_page([run])
    for secret in ("k-in-config", "t-in-config", "0123456789abcdef01234567", "pass-word", "hf_abcdef", "&thing"):
        assert secret not in page
    words = text_of(page)
    assert f"logger.api_key {HIDDEN} logger.hub_token {HIDDEN} logger.n_tokens 12" in words
    assert "key (hidden), (hidden)" in words
    assert hide("split 198ea0bcbbb9e9b1, task sk-1") == "split 198ea0bcbbb9e9b1, task sk-1"


# --- in a browser -----------------------------------------------------------------------------------------------------

POINT = """
const svgs = [...document.querySelectorAll("figure.chart svg")];
const svg = svgs[0], box = svg.getBoundingClientRect(), tip = document.getElementById("tip");
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * 0.6, clientY: box.top + 50}));
const hovered = tip.hidden ? "" : tip.textContent;
svg.dispatchEvent(new PointerEvent("pointerleave", {}));
const gone = tip.hidden;
svg.dispatchEvent(new KeyboardEvent("keydown", {key: "End"}));
document.body.dataset.found = JSON.stringify({hovered, gone, last: tip.textContent, images:
  [...document.images].map(i => i.naturalWidth), wide: document.documentElement.scrollWidth - innerWidth,
  back: getComputedStyle(document.body).backgroundColor,
  links: [...document.querySelectorAll("nav a")].map(a => !!document.querySelector(a.getAttribute("href")))});
"""


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_a_browser_shows_the_page_without_errors_or_requests(tmp_path, width, dark):
    folders = [write_experiment(tmp_path / "exp" / "001"), write_comparison(tmp_path / "cmp")]
    (tmp_path / "report.html").write_text(report_page(folders), encoding="utf-8")
    seen = visit(tmp_path / "report.html", tmp_path, POINT, width, dark)
    assert seen.console == []
    assert seen.requests == []
    found = json_of(seen.dom, "found")
    assert "step " in found["hovered"]
    assert "mixed: 0." in found["hovered"]
    assert found["gone"]
    assert "step 599" in found["last"]
    assert found["images"]
    assert all(found["images"])
    assert all(found["links"])
    assert found["wide"] <= 0, "the page scrolls sideways"
    assert found["back"] == ("rgb(20, 24, 30)" if dark else "rgb(255, 255, 255)")
    assert count(seen.dom, "table") >= 8
    assert count(seen.dom, "path") >= 8


@needs_browser
def test_the_pages_policy_stops_what_escaping_would_miss(tmp_path):
    run = write_run(tmp_path / "toy" / "001")
    page = report_page([run]).replace("<main>", "<main><script>document.body.dataset.found='1'</script>", 1)
    page = page.replace("<main>", '<main><img src="http://192.0.2.1/x.png">', 1)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    seen = visit(tmp_path / "report.html", tmp_path)
    assert len(seen.console) == 2
    assert all("Content Security Policy" in line for line in seen.console)
    assert "data-found" not in seen.dom
    assert seen.requests == []
