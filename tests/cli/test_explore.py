"""Looking into a latent space: clusters, maps, lines, units, the page, the command."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from browser import assert_stands_alone, count, json_of, needs_browser, visit
from conftest import ROOT
from PIL import Image
from test_cli import assert_one_line
from torch import Tensor, nn

from genmeta.cli.main import main
from genmeta.explore.clusters import METHODS, agreement, cluster, purity
from genmeta.explore.drawing import atlas, sheet
from genmeta.explore.exploration import ExploredImages, Findings, explore
from genmeta.explore.lines import SHARES, change_of_image, move, principal_changes, strips, traversals
from genmeta.explore.maps import PrincipalAxes, tsne
from genmeta.explore.page import page
from genmeta.explore.units import active_units, activity, kl_per_dimension
from genmeta.models.checkpoint import LatentModel
from genmeta.models.decoder import LatentDecoder, LatentEncoder, Redrawer
from genmeta.rng import make_rng
from genmeta.tasks.prior import GaussianMixture

D = 4  # dimensions of the toy model's codes: the image's pixels, but for a shift


class ToyEncoder(LatentEncoder):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = 10 * (x.flatten(1)[:, :D] - 0.5)
        return mean, torch.full_like(mean, -4.0)


class ToyDecoder(LatentDecoder):
    image_shape = (1, 2, 2)

    def decode(self, z: Tensor) -> Tensor:
        return (z / 10 + 0.5).clamp(0, 1).view(-1, 1, 2, 2)


class ToyRedrawer(Redrawer):
    image_shape = (1, 2, 2)

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        return (x + 0.1 * z[:, :1, None, None]).clamp(0, 1)  # only the first dimension of a code does anything


def toy_model(**networks: nn.Module) -> LatentModel:
    modules = nn.ModuleDict(networks)
    return LatentModel(GaussianMixture.standard(D), "toy", "hash", Path("toy.ckpt"), modules)


def looked(n_classes: int = 6, n_images: int = 8) -> ExploredImages:
    rng = make_rng("looked")
    centres = torch.rand(n_classes, 1, 1, 2, 2, generator=rng)
    images = (centres + 0.01 * torch.randn(n_classes, n_images, 1, 2, 2, generator=rng)).clamp(0.05, 0.95)
    names = tuple(f"g{i // 3}/c{i}" for i in range(n_classes))
    groups = tuple(f"g{i // 3}" for i in range(n_classes))
    parts = tuple("train" if i < 4 else "val" for i in range(n_classes))
    classes = torch.arange(n_classes).repeat_interleave(n_images)
    return ExploredImages(images.flatten(0, 1), classes, names, groups, parts, tuple(p == "train" for p in parts))


@pytest.mark.parametrize("method", METHODS)
def test_clusters_that_lie_apart_are_found_whatever_their_numbers(method):
    truth = torch.arange(5).repeat_interleave(20)
    codes = 50 * torch.eye(5)[truth] + torch.randn(100, 5, generator=make_rng("clusters"))
    found = cluster(codes, 5, method)
    assert agreement(found, truth) == pytest.approx({"nmi": 1, "ari": 1, "purity": 1})
    assert torch.equal(found, cluster(codes, 5, method))


def test_purity_and_agreement_by_hand():
    # clusters {a a b} and {b b c}: the commonest of each is 2 of 6
    clusters, truth = torch.tensor([4, 4, 4, 9, 9, 9]), torch.tensor([0, 0, 1, 1, 1, 2])
    assert purity(clusters, truth) == pytest.approx(4 / 6)
    # pairs together in both: aa, bb; 6 pairs within clusters, 1 + 3 within kinds, of 15
    expected = 6 * 4 / 15
    assert agreement(clusters, truth)["ari"] == pytest.approx((2 - expected) / ((6 + 4) / 2 - expected))
    assert purity(torch.zeros(6, dtype=torch.long), truth) == pytest.approx(3 / 6)


def test_principal_axes_are_those_of_a_stretched_cloud():
    rng = make_rng("cloud")
    x = torch.randn(4000, 3, generator=rng) * torch.tensor([0.5, 3.0, 1.0]) + torch.tensor([1.0, 2.0, 3.0])
    axes = PrincipalAxes.of(x)
    assert torch.allclose(axes.directions.abs(), torch.eye(3)[[1, 2, 0]], atol=0.05)
    assert (axes.directions.gather(1, axes.directions.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.allclose(axes.deviations, torch.tensor([3.0, 1.0, 0.5]), rtol=0.05)
    assert axes.shares.sum().item() == pytest.approx(1)
    assert torch.allclose(axes.project(x).std(0), axes.deviations[:2], rtol=1e-4)


def test_tsne_is_the_same_twice_and_keeps_neighbours():
    truth = torch.arange(3).repeat_interleave(15)
    codes = 40 * torch.eye(3)[truth] + torch.randn(45, 3, generator=make_rng("tsne"))
    found = tsne(codes)
    assert torch.equal(found, tsne(codes))
    distances = torch.cdist(found, found) + 1e9 * torch.eye(45)
    assert torch.equal(truth[distances.argmin(1)], truth)


def test_lines_and_circles_by_hand():
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.equal(move(start, end, 2.0), torch.tensor([-1.0, 2.0]))
    half = 0.5**0.5
    for share, point in ((0, [1, 0]), (0.5, [half, half]), (1, [0, 1]), (2, [-1, 0]), (-1, [0, -1])):
        assert torch.allclose(move(start, end, share, spherical=True), torch.tensor(point).float(), atol=1e-6)
    # two codes of one line have no circle
    assert torch.allclose(move(start, 3 * start, 0.5, spherical=True), 2 * start)
    codes = strips(start[None], end[None], torch.tensor(SHARES))
    assert codes.shape == (1, 13, 2)
    assert torch.equal(codes[0, SHARES.index(0)], start)
    assert torch.equal(codes[0, SHARES.index(1)], end)
    along = traversals(start, torch.eye(2), torch.tensor([2.0, 5.0]), torch.tensor([-1.0, 0.0, 3.0]))
    assert along.tolist() == [[[-1, 0], [1, 0], [7, 0]], [[1, -5], [1, 0], [1, 15]]]


def test_change_of_image_is_the_metric_of_a_linear_decoder():
    weight = torch.randn(3, 20, generator=make_rng("linear"))
    metric = change_of_image(lambda z: z @ weight, torch.randn(5, 3, generator=make_rng("codes")))
    assert torch.allclose(metric.float(), weight @ weight.T / 20, atol=1e-4)
    directions, changes = principal_changes(metric)
    assert (changes.diff() <= 0).all()
    step = (directions[0] @ weight).square().mean().sqrt()
    assert changes[0].item() == pytest.approx(step.item(), rel=1e-3)


def test_units_of_a_made_up_posterior():
    mean = torch.zeros(400, 3)
    mean[:, 0] = torch.tensor([1.0, -1.0]).repeat(200)  # variance 1 (400/399)
    mean[:, 1] = torch.tensor([0.05, -0.05]).repeat(200)  # 0.0025: not active
    log_var = torch.tensor([2.0, 0.0, 0.0]).expand(400, 3).log().nan_to_num(neginf=0)
    assert torch.allclose(activity(mean), torch.tensor([400 / 399, 0.0025 * 400 / 399, 0]), atol=1e-6)
    assert active_units(mean) == 1
    # KL of N(±1, 2) to N(0, 1): (2 + 1 - 1 - log 2) / 2
    expected = torch.tensor([(2 - torch.log(torch.tensor(2.0))) / 2, 0.00125, 0])
    assert torch.allclose(kl_per_dimension(mean, log_var), expected, atol=1e-6)


def encoder_and_decoder() -> LatentModel:
    encoder = ToyEncoder()
    encoder.image_shape = (1, 2, 2)
    return toy_model(decoder=ToyDecoder(), encoder=encoder)


def test_strips_are_the_decoded_codes_between_the_ends(monkeypatch):
    """The pictures hold what the formulas say: codes worked out here by hand, decoded, in their places."""
    drawn = {}

    def remember(images, row_names, column_names, marked=()):
        drawn[row_names[0], len(drawn)] = images
        return sheet(images, row_names, column_names, marked)

    monkeypatch.setattr("genmeta.explore.exploration.sheet", remember)
    x, model = looked(), encoder_and_decoder()
    explore(model, x)
    of_images, of_classes = list(drawn.values())[:2]
    (first, _), *_ = drawn
    start, end = (x.class_names.index(name) for name in first.split(" - "))
    codes = model.encode(x.images)[0].unflatten(0, (6, 8))
    for images, a, b in (
        (of_images, codes[start, 0], codes[end, 0]),
        (of_classes, codes[start].mean(0), codes[end].mean(0)),
    ):
        expected = torch.cat([model.decode((a + share * (b - a))[None]) for share in SHARES])
        assert torch.allclose(images[0, 1:-1], expected, atol=1e-6)
        assert torch.equal(images[0, 0], x.first_of([start])[0])
        assert torch.equal(images[0, -1], x.first_of([end])[0])


def test_with_an_encoder_everything_is_found_twice_the_same():
    first, second = (explore(encoder_and_decoder(), looked(), with_tsne=True) for _ in range(2))
    assert first.numbers == second.numbers
    assert first.skipped == []
    assert set(first.maps) == {"PCA", "t-SNE"}
    assert set(first.pictures) == {
        "map-pca", "map-t-sne", "strips-images", "strips-classes", "traversals-mean", "traversals-image", "units"
    }  # fmt: skip
    of_classes = [row for row in first.numbers["clusters"] if row["clusters"] == 6]
    assert [row["class nmi"] for row in of_classes] == pytest.approx([1, 1])
    assert {row["clusters"] for row in first.numbers["clusters"]} == {2, 3, 6}
    assert first.numbers["active_units"] == D
    assert first.numbers["distances"]["within_classes"] < first.numbers["distances"]["between_classes"] / 5
    assert torch.tensor(first.numbers["units"]["change_of_pixel"]) == pytest.approx([0.1 / 2] * D, rel=1e-3)


def test_what_does_not_apply_is_left_out_and_said():
    found = explore(toy_model(decoder=ToyDecoder()), looked())
    assert set(found.pictures) == {"strips-prior", "traversals-prior", "units"}
    assert "has no encoder" in found.skipped[0]
    found = explore(toy_model(redrawer=ToyRedrawer()), looked())
    assert set(found.pictures) == {"redrawn", "directions-1", "directions-2", "units"}
    assert "draws given images again" in found.skipped[0]
    # the two classes that the generator has not seen, and the one dimension that does something
    assert "g1/c4, g1/c5." in found.pictures["redrawn"][1]
    changes = found.numbers["units"]["change_of_pixel"]
    assert changes[0] == pytest.approx(0.1, rel=0.2)
    assert changes[1:] == [0, 0, 0]


def test_sheet_and_atlas_put_images_where_they_belong():
    images = torch.zeros(2, 3, 1, 4, 4)
    images[1, 2] = 1
    drawn = sheet(images, ["a", "b"], ["0", "1", "2"], marked=[1])
    assert drawn.getpixel((drawn.width - 10, drawn.height - 10)) == (255, 255, 255)
    assert drawn.getpixel((drawn.width - 10, drawn.height - 70)) == (0, 0, 0)
    picture, height, width = atlas(torch.arange(5).view(5, 1, 1, 1).expand(-1, 1, 8, 8) / 4, n_columns=2)
    assert (height, width, picture.size, picture.mode) == (8, 8, (16, 24), "L")
    assert [picture.getpixel((x, y)) for y in (4, 12, 20) for x in (4, 12)] == [0, 64, 128, 191, 255, 0]
    assert atlas(torch.rand(3, 3, 84, 84))[1:] == (32, 32)


def test_the_page_stands_alone_and_survives_any_class_name(tmp_path):
    x = looked()
    nasty = ("</script><b>", '"quoted"', "日本", "a&b", "<!--", "'")
    x = ExploredImages(x.images, x.classes, nasty, x.groups, x.parts, x.seen)
    found = explore(encoder_and_decoder(), x)
    text = page("title <1>", ["a fact"], x, found, {"t": [["a"], ["1"]]})
    assert text.count("<script") == text.count("</script>") == 2
    assert_stands_alone(text)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["kinds"]["class"]["names"] == list(nasty)
    assert len(data["maps"]["PCA"]["x"]) == len(data["kinds"]["class"]["of"]) == len(x.images)
    assert '<img id="atlas" src="data:image/png;base64,' in text
    if node := shutil.which("node"):
        import subprocess

        script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
        (tmp_path / "page.js").write_text(script)
        subprocess.run([node, "--check", tmp_path / "page.js"], check=True)
    assert 'id="map"' not in page("t", [], x, Findings(), {})


MAP = """
const map = document.getElementById("map"), tip = document.getElementById("tip"), box = map.getBoundingClientRect();
let shown = "";
for (let x = 0; x < box.width && !shown; x += 8) for (let y = 0; y < box.height && !shown; y += 8) {
  map.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x, clientY: box.top + y}));
  if (!tip.hidden) shown = tip.textContent;
}
const painted = new Set(map.getContext("2d").getImageData(0, 0, map.width, map.height).data).size;
document.getElementById("by").value = "class";
document.getElementById("by").dispatchEvent(new Event("change"));
const names = [...document.querySelectorAll("#legend button")].map(b => b.textContent);
document.querySelector("#legend button").click();
const pressed = document.querySelectorAll('#legend [aria-pressed="true"]').length;
document.body.dataset.found = JSON.stringify({shown, painted, names, pressed,
  images: [...document.images].map(i => i.naturalWidth)});
"""


@needs_browser
def test_a_browser_shows_the_map_without_errors_or_requests(tmp_path):
    x = looked()
    found = explore(encoder_and_decoder(), x)
    html = page("a space", ["a fact"], x, found, {"Clusters": [["method", "NMI"], ["k-means", "0.6"]]})
    (tmp_path / "explore.html").write_text(html, encoding="utf-8")
    seen = visit(tmp_path / "explore.html", tmp_path, MAP)
    assert (seen.console, seen.requests) == ([], [])
    there = json_of(seen.dom, "found")
    assert re.match("class: g./c.group: g", there["shown"])
    assert there["painted"] > 20  # levels of colours: points are there
    assert there["names"] == list(x.class_names)
    assert there["pressed"] == 1
    assert there["images"]
    assert all(there["images"])
    assert count(seen.dom, "table") == 1


def test_command_of_a_generator_without_encoder(monkeypatch, generator, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    args = ["explore", "--ckpt", str(generator), "--part", "val", "--out", str(tmp_path / "out")]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "has seen 0 of the 52 classes" in shown  # the data of its own run: glyphs_minimal
    assert "the generator has no encoder" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {one["part"] for one in report["data"]["classes"]} == {"val"}
    assert "no encoder" in (tmp_path / "out" / "explore.html").read_text()
    with Image.open(tmp_path / "out" / "strips-prior.png") as picture:
        assert picture.width > 13 * 56
    assert main(args) == 2
    assert_one_line(capsys, "--out: .* is not empty; nothing was overwritten")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "glyfs"], "--data: 'glyfs' is no file and none of .*did you mean 'glyphs'"),
        (["--part", "training"], "argument --part: invalid choice: 'training'"),
        (["--umap"], "--umap: the package is not installed; pip install umap-learn"),
        (["--ckpt", "nowhere.ckpt"], "checkpoint nowhere.ckpt: no such file"),
    ],
)
def test_wrong_input_is_told_in_one_line(monkeypatch, generator, tmp_path, capsys, more, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["explore", "--ckpt", str(generator), "--out", str(tmp_path / "out"), *more]) == 2
    assert_one_line(capsys, message)
