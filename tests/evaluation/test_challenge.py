"""The Omniglot Challenge: its files, the modified Hausdorff distance, the errors, and what is refused."""

import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import OMNIGLOT, PATIENCE, ROOT, make_table
from PIL import Image
from test_cli import assert_one_line

from genmeta.cli.main import main
from genmeta.data.challenge import check_unseen_runs, read_runs, resized, runs_hash
from genmeta.data.omniglot_minimal import OmniglotMinimal
from genmeta.data.seen import Seen, hash_images
from genmeta.data.splits import Split
from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.evaluation.challenge import PUBLISHED, Entry, overall, remark, run_errors
from genmeta.learners.hausdorff import ModifiedHausdorff, ink_points, modified_hausdorff
from genmeta.learners.learner import Learner
from genmeta.learners.maml import MAML
from genmeta.learners.metric import PixelNearestNeighbour, ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng

SIZE, N_WAY, N_RUNS = 32, 4, 3


def drawing(rng) -> np.ndarray:
    """A random polygon of four strokes, True where there is ink."""
    corners = torch.randint(3, SIZE - 3, (5, 2), generator=rng).tolist()
    page = np.zeros((SIZE, SIZE), dtype=bool)
    for (r0, c0), (r1, c1) in pairwise(corners):
        for t in np.linspace(0, 1, 60):
            r, c = round(r0 + t * (r1 - r0)), round(c0 + t * (c1 - c0))
            page[r : r + 2, c : c + 2] = True
    return page


def write_runs(folder: Path, n_runs=N_RUNS, n_way=N_WAY, seed=0) -> Path:
    """Runs in the official form: black on white, mode "1"; test items are shifted and noisy copies in another order."""
    for number in range(1, n_runs + 1):
        rng, name = make_rng("runs", seed, number), f"run{number:02d}"
        for kind in ("training", "test"):
            (folder / name / kind).mkdir(parents=True)
        order = torch.randperm(n_way, generator=rng).tolist()
        lines = []
        for c, item in enumerate(order):
            page = drawing(rng)
            other = np.roll(page, (1, -2), (0, 1)) & (torch.rand(SIZE, SIZE, generator=rng).numpy() < 0.8)
            files = f"{name}/training/class{c + 1:02d}.png", f"{name}/test/item{item + 1:02d}.png"
            for file, image in zip(files, (page, other), strict=True):
                Image.fromarray(~image).save(folder / file)
            lines.append(f"{files[1]} {files[0]}\n")
        (folder / name / "class_labels.txt").write_text("".join(sorted(lines)))
    return folder


def write_zip(folder: Path, path: Path, prefix="") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def folder(tmp_path):
    return write_runs(tmp_path / "all_runs")


# the modified Hausdorff distance


def points(*pairs):
    return torch.tensor(pairs, dtype=torch.float64)


def test_hausdorff_by_hand():
    square = points((0, 0), (0, 3))
    # to the square: 0 and 5 (from (4, 6) to (0, 3)), mean 2.5; from it: 0 and 3, mean 1.5
    other = points((0, 0), (4, 6))
    assert modified_hausdorff([square], [other]).tolist() == [[2.5]]
    assert modified_hausdorff([other], [square]).tolist() == [[2.5]]
    # three points near one, and one far: the mean, not the largest (which would be 10)
    assert modified_hausdorff([points((0, 0))], [points((0, 1), (1, 0), (0, -1), (0, 10))]).tolist() == [[13 / 4]]
    assert modified_hausdorff([square], [square, points((0, 0))]).tolist() == [[0, 1.5]]
    assert modified_hausdorff([square], [torch.empty(0, 2, dtype=torch.float64)]).tolist() == [[float("inf")]]


def slow_hausdorff(one, other):
    nearest = [[min(float(np.hypot(*(a - b))) for b in y) for a in x] for x, y in ((one, other), (other, one))]
    return max(sum(n) / len(n) for n in nearest)


def test_hausdorff_equals_a_slow_loop():
    rng = make_rng(0)
    ones, others = ([torch.rand(n, 2, generator=rng, dtype=torch.float64) * 9 for n in s] for s in ((1, 5, 9), (4, 7)))
    expected = [[slow_hausdorff(a.numpy(), b.numpy()) for b in others] for a in ones]
    torch.testing.assert_close(modified_hausdorff(ones, others), torch.tensor(expected, dtype=torch.float64))


def test_ink_is_centred_and_a_blank_image_has_none():
    image = torch.zeros(1, 5, 5)
    image[0, 1, 2] = image[0, 3, 2] = 1
    assert ink_points(image).tolist() == [[-1, 0], [1, 0]]
    assert ink_points(image.roll(1, 2)).tolist() == [[-1, 0], [1, 0]], "where it stands does not matter"
    assert ink_points(image * 0.4).shape == (0, 2)


def test_hausdorff_learner_takes_the_nearest_of_several_shots_and_follows_labels():
    rng = make_rng(0)
    images = torch.stack([torch.from_numpy(drawing(rng)).float()[None] for _ in range(8)])
    labels = torch.tensor([2, 0, 1, 1, 2, 0])
    batch = EpisodeBatch(
        images[None, :6], labels[None], images[None], labels[None], torch.zeros(1, 3, dtype=torch.bool)
    )
    logits = ModifiedHausdorff()(batch)[0]
    distances = modified_hausdorff([ink_points(x) for x in images], [ink_points(x) for x in images[:6]])
    for q in range(8):
        assert logits[q].tolist() == [-min(distances[q][labels == c].tolist()) for c in range(3)]
    assert logits[:6].argmax(1).tolist() == labels.tolist(), "an image is nearest to itself"
    blank = EpisodeBatch(images[None, :6] * 0, labels[None], images[None], labels[None], batch.is_generated)
    assert not ModifiedHausdorff()(blank).isnan().any()


# the files


def lakes_errors(folder: Path, n_runs: int) -> list[float]:
    """The steps of the challenge's demo, as plain loops."""
    errors = []
    for number in range(1, n_runs + 1):
        pairs = [line.split() for line in (folder / f"run{number:02d}" / "class_labels.txt").read_text().splitlines()]
        tests, trains, answers = sorted(p[0] for p in pairs), sorted(p[1] for p in pairs), [p[1] for p in pairs]

        def load(file):
            page = ~np.asarray(Image.open(folder / file).convert("L")).astype(bool)
            d = np.array(page.nonzero()).T.astype(float)
            return d - d.mean(0)

        costs = [[slow_hausdorff(load(t), load(c)) for c in trains] for t in tests]
        right = [trains[int(np.argmin(row))] == answer for row, answer in zip(costs, answers, strict=True)]
        errors.append(1 - sum(right) / len(right))
    return errors


def test_hausdorff_errors_are_those_of_the_challenges_demo(tmp_path):
    folder = write_runs(tmp_path / "runs", n_runs=2, n_way=6, seed=3)
    assert run_errors(ModifiedHausdorff(), read_runs(folder)) == pytest.approx(lakes_errors(folder, 2))


def test_folder_and_zip_give_the_same_runs_wherever_they_start(folder, tmp_path):
    runs = read_runs(folder)
    assert [run.name for run in runs] == ["run01", "run02", "run03"]
    assert runs[0].training.shape == runs[0].test.shape == (N_WAY, SIZE, SIZE)
    assert set(runs[0].training.unique().tolist()) == {0, 255}
    assert (runs[0].training > 0).float().mean() < 0.5, "ink, not paper, is 255"
    for run in runs:
        assert sorted(run.answers.tolist()) == list(range(N_WAY))
        for line in (folder / run.name / "class_labels.txt").read_text().splitlines():
            item, c = (int(re.search(r"(\d+)\.png$", word)[1]) - 1 for word in line.split())
            assert run.answers[item] == c
    paths = [
        folder.parent,
        write_zip(folder, tmp_path / "a.zip"),
        write_zip(folder, tmp_path / "b.zip", "all_runs/"),
        write_zip(folder, tmp_path / "c.zip", "one-shot/all_runs/"),
    ]
    assert {runs_hash(read_runs(path)) for path in paths} == {runs_hash(runs)}


def test_labels_with_windows_line_ends_and_empty_lines_are_read(folder):
    before = runs_hash(read_runs(folder))
    labels = folder / "run02" / "class_labels.txt"
    labels.write_bytes(labels.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert runs_hash(read_runs(folder)) == before


def test_the_hash_sees_every_part(folder):
    before = runs_hash(read_runs(folder))
    labels = folder / "run01" / "class_labels.txt"
    text = labels.read_text()
    labels.write_text(text.replace("class01", "X").replace("class02", "class01").replace("X", "class02"))
    assert runs_hash(read_runs(folder)) != before


def test_a_zip_that_points_outside_writes_nothing(folder, tmp_path):
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    path = write_zip(folder, inside / "a.zip", "../../")
    before = sorted(tmp_path.rglob("*"))
    assert len(read_runs(path)) == N_RUNS
    assert sorted(tmp_path.rglob("*")) == before


def edit(name, change):
    def damage(folder):
        file = folder / "run02" / name
        file.write_bytes(change(file.read_bytes()))

    return damage


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


LABELS, ITEM = "class_labels.txt", "test/item03.png"
DAMAGES = {
    "a run is missing": (rename("run02", "x02"), "a run is missing: found 2, the last is run03"),
    "labels are missing": (rename("run02/class_labels.txt", "run02/labels.txt"), "a run is missing"),
    "an image is missing": (
        rename("run02/test/item03.png", "run02/test/item3.png"),
        "run02/test/item03.png is missing",
    ),
    "a label is missing": (edit(LABELS, lambda b: b[b.index(b"\n") + 1 :]), "cut off"),
    "labels are cut off": (edit(LABELS, lambda b: b[:-8]), "line 4 is 'run02/test/item04.png .*; expected like"),
    "labels are empty": (edit(LABELS, lambda b: b""), "has 0 lines"),
    "labels are no text": (edit(LABELS, lambda b: bytes(range(128, 200))), "is no text"),
    "a class comes twice": (edit(LABELS, lambda b: b.replace(b"class01", b"class02")), "3 different class names"),
    "an item comes twice": (edit(LABELS, lambda b: b.replace(b"item01", b"item02")), "3 different test item names"),
    "labels of another run": (edit(LABELS, lambda b: b.replace(b"run02", b"run01")), "line 1 is 'run01/test"),
    "labels that lead away": (edit(LABELS, lambda b: b.replace(b"training/", b"../run01/training/")), "line 1 is"),
    "an image is cut off": (edit(ITEM, lambda b: b[: len(b) // 2]), r"item03\.png: damaged, or no PNG picture"),
    "an image is empty": (edit(ITEM, lambda b: b""), r"item03\.png: damaged, or no PNG picture"),
    "an image is garbage": (edit(ITEM, lambda b: bytes(300)), r"item03\.png: damaged, or no PNG picture"),
    "an image is huge": (edit(ITEM, lambda b: b + bytes(2**20)), r"larger than any file of the challenge"),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_runs_are_refused_in_one_line(folder, tmp_path, capsys, what, form):
    damage, message = DAMAGES[what]
    damage(folder)
    path = folder if form == "folder" else write_zip(folder, tmp_path / "a.zip")
    assert main(["challenge", "--runs", str(path)]) == 2
    assert_one_line(capsys, message)


def picture(folder, image):
    Image.fromarray(image).save(folder / "run02" / ITEM)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((SIZE, SIZE), 255, np.uint8), r"item03\.png: has no ink"),
        (np.zeros((SIZE, SIZE + 1), np.uint8), r"item03\.png: is \(32, 33\), but run02/test/item01\.png is \(32, 32\)"),
        (np.zeros((2001, 3), np.uint8), r"damaged, or no PNG picture \(3 × 2001 pixels\)"),
    ],
)
def test_images_of_another_kind_are_refused(folder, image, message):
    picture(folder, image)
    with pytest.raises(UserError, match=message):
        read_runs(folder)


def test_runs_of_different_sizes_are_refused(folder):
    for file in (folder / "run03").glob("t*/*.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
    with pytest.raises(UserError, match=r"one size, found \[32, 32\] in run02, \[8, 8\] in run03"):
        read_runs(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder; expected all_runs.zip"),
        (lambda p: p.mkdir(), "holds no run01/class_labels.txt"),
        (lambda p: p.write_bytes(b""), "cut off, damaged, or no zip"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(500)), "cut off, damaged, or no zip"),
        (lambda p: write_zip(ROOT / "configs", p), "holds no run01/class_labels.txt"),
    ],
)
def test_paths_without_runs_are_refused_in_one_line(tmp_path, capsys, make, message):
    make(tmp_path / "a")
    assert main(["challenge", "--runs", str(tmp_path / "a")]) == 2
    assert_one_line(capsys, message)


def test_a_zip_with_a_file_twice_is_refused(folder, tmp_path):
    path = write_zip(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(folder / "run01" / LABELS, "other/run01/class_labels.txt")
    with pytest.raises(UserError, match=r"has run01/class_labels\.txt twice"):
        read_runs(path)


def test_any_damage_to_a_zip_is_a_user_error_or_none(folder, tmp_path):
    """Cut anywhere, or bytes changed anywhere: never another exception."""
    whole = write_zip(folder, tmp_path / "a.zip").read_bytes()
    rng = make_rng("fuzz")
    messages = []
    for number in range(150):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: int(torch.randint(len(whole), (), generator=rng))]
        else:
            places = torch.randint(len(whole), (1 if number % 3 == 1 else 40,), generator=rng)
            for place in places.tolist():
                content[place] = int(torch.randint(256, (), generator=rng))
        (tmp_path / "b.zip").write_bytes(content)
        try:
            read_runs(tmp_path / "b.zip")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


# errors of learners


class Oracle(Learner):
    """Knows the answers of the runs, but for the first item of each."""

    def __init__(self, runs):
        super().__init__()
        self.answers = iter([run.answers for run in runs])

    def forward(self, batch):
        answers = next(self.answers).clone()
        answers[0] = (answers[0] + 1) % len(answers)
        return torch.nn.functional.one_hot(answers, batch.n_way).float()[None]


def test_an_error_is_the_share_of_wrong_items(folder):
    runs = read_runs(folder)
    assert run_errors(Oracle(runs), runs) == [1 / N_WAY] * N_RUNS


def test_learners_see_one_task_of_one_shot_at_their_size(folder):
    runs = read_runs(folder)
    seen = []

    class Looker(PixelNearestNeighbour):
        def forward(self, batch):
            seen.append(batch)
            return super().forward(batch)

    run_errors(Looker(), runs, 16)
    assert seen[0].support_x.shape == seen[0].query_x.shape == (1, N_WAY, 1, 16, 16)
    assert torch.equal(seen[1].query_x, resized(runs[1].test, 16)[None].float() / 255)
    assert seen[0].support_y.tolist() == [[0, 1, 2, 3]]


def test_images_are_made_small_like_those_of_the_omniglot_source(tmp_path):
    page = drawing(make_rng(5))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("set/Alphabet/c1/d1.png", "w") as file:
        Image.fromarray(~page).save(file, "PNG")
    from genmeta.data.omniglot_minimal import read_zip

    (expected,) = read_zip(tmp_path / "a.zip", 12)["Alphabet/c1"]
    ink = torch.from_numpy(page.astype(np.uint8) * 255)[None]
    assert torch.equal(resized(ink, 12)[0], expected)


def test_table_has_the_interval_over_runs_and_the_published_rows():
    text = overall([Entry("mine", "toys", [0.1, 0.3, 0.2])])
    assert "| 20.00 ± 11.32 | toys " in text  # 1.96 · 10 / sqrt(3)
    assert text.count("published: ") == len(PUBLISHED) == 10
    assert re.search(r"\| 38\.8 +\| nothing +\| published: modified Hausdorff distance", text)


def test_only_runs_with_the_published_hausdorff_error_count_as_official(folder):
    run = read_runs(write_runs(folder.parent / "wide", 1, 20))[0]
    official = [run] * 20
    assert "compare with those rows" in remark(official, Entry("", "", [0.35] * 5 + [0.4] * 15))  # 38.75 %
    for runs, errors in ((official, [0.4] * 20), (official[:10], [0.3875] * 10), (read_runs(folder), [0.3875] * 3)):
        assert "not the official runs" in remark(runs, Entry("", "", errors))


# the command


def save(path: Path, learner: Learner, config: dict, seen: Seen, shape=(1, 28, 28)) -> str:
    """A checkpoint such as `genmeta fit` writes."""
    entry = {**seen.state(), "learner": config, "image_shape": list(shape)}
    weights = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    torch.save({"state_dict": weights, "genmeta": entry}, path)
    return str(path)


def config(learner_class, backbone: dict, **args) -> dict:
    inner = {"class_path": "genmeta.models.backbones.Conv4", "init_args": backbone}
    name = f"{learner_class.__module__}.{learner_class.__qualname__}"
    return {"class_path": name, "init_args": {"backbone": inner, **args}}


TABLE = make_table()
SEEN = Seen.of(Split("toy", "toy", *(TABLE.class_names[a:b] for a, b in ((0, 12), (12, 18), (18, 24)))), TABLE)
BACKBONE = {"in_channels": 1, "hidden": 4, "image_size": 28}


def test_the_command_with_a_learner_of_a_run(folder, learner, capsys):
    assert main(["challenge", "--runs", str(folder), "--ckpt", str(learner)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^run03 +\d+\.\d % +\d+\.\d %$", out, re.M)
    assert re.search(r"\| \d+\.\d\d ± \d+\.\d\d +\| 149 classes of glyphs \(glyphs_minimal\) +\| ProtoNet ", out)
    assert f"hash {runs_hash(read_runs(folder))}" in out
    assert "28 × 28 pixels" in out
    assert "not the official runs" in out
    assert "Lake et al., Science 2015" in out
    assert "transductive" not in out


def test_the_command_without_a_learner_tests_the_baseline(folder, capsys):
    assert main(["challenge", "--runs", str(folder)]) == 0
    out = capsys.readouterr().out
    errors = [float(e) for e in re.findall(r"^run\d\d +(\d+\.\d) %$", out, re.M)]
    assert errors == pytest.approx([100 * e for e in lakes_errors(folder, N_RUNS)])


def test_maml_is_tested_with_a_head_of_that_many_classes_and_said_to_be_transductive(folder, tmp_path, capsys):
    backbone = {**BACKBONE, "norm": "batch"}
    for n_way, code in ((N_WAY, 0), (5, 2)):
        learner = MAML(Conv4(**backbone), n_way=n_way)
        path = save(tmp_path / "a.ckpt", learner, config(MAML, backbone, n_way=n_way), SEEN)
        assert main(["challenge", "--runs", str(folder), "--ckpt", path]) == code
        if code:
            assert_one_line(capsys, "MAML with n_way=5, but the episodes have n_way=4")
        else:
            assert "transductive: batch norm uses all test items" in capsys.readouterr().out


def test_a_learner_for_colour_images_is_refused(folder, tmp_path, capsys):
    backbone = {**BACKBONE, "in_channels": 3}
    path = save(tmp_path / "a.ckpt", ProtoNet(Conv4(**backbone)), config(ProtoNet, backbone), SEEN, (3, 28, 28))
    assert main(["challenge", "--runs", str(folder), "--ckpt", path]) == 2
    assert_one_line(capsys, r"images of shape \[3, 28, 28\], but the challenge")


@pytest.mark.parametrize("part", ["train_images", "val_images"])
def test_a_learner_that_has_seen_one_image_of_the_runs_is_refused(folder, tmp_path, capsys, part):
    one = hash_images(resized(read_runs(folder)[1].test[2:3], 28))
    seen = Seen(**{**vars(SEEN), part: torch.cat([getattr(SEEN, part), one])})
    path = save(tmp_path / "a.ckpt", ProtoNet(Conv4(**BACKBONE)), config(ProtoNet, BACKBONE), seen)
    assert main(["challenge", "--runs", str(folder), "--ckpt", path]) == 2
    assert_one_line(capsys, r"a\.ckpt has seen 1 of the 8 images of run02 \(split 'toy' of 'toy'\)")


@pytest.mark.parametrize(
    "group", ["Tibetan", "tibetan", "Syriac_(Serto)", "syriac serto", "Old_Church_Slavonic_(Cyrillic)"]
)
def test_a_learner_that_has_seen_an_evaluation_alphabet_is_refused(folder, group):
    seen = Seen(**{**vars(SEEN), "groups": ("Greek", group)})
    with pytest.raises(
        UserError, match=re.escape("has seen 1 alphabets of Omniglot's evaluation set") + f".*{re.escape(group)}"
    ):
        check_unseen_runs(seen, read_runs(folder), 28, "a.ckpt")
    check_unseen_runs(Seen(**{**vars(SEEN), "groups": ("Greek", "Cyrillic", "Syriac_(Estrangelo)")}), (), 28, "a.ckpt")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: --runs"),
        (["--rns", "x"], "required: --runs"),
        (["--runs", "x", "--ckp", "y"], "unrecognized arguments: --ckp"),
    ],
)
def test_wrong_options_are_one_line(capsys, args, message):
    assert main(["challenge", *args]) == 2
    assert_one_line(capsys, message)


def test_checkpoints_that_are_none_are_one_line(folder, tmp_path, capsys, generator):
    for path, message in ((tmp_path / "no.ckpt", "no such file"), (generator, "does not say how to build its learner")):
        assert main(["challenge", "--runs", str(folder), "--ckpt", str(path)]) == 2
        assert_one_line(capsys, message)


# runs made of the minimal sets


def test_home_made_runs_are_of_one_alphabet_and_two_drawers(tmp_path):
    if not OMNIGLOT.is_dir():
        pytest.skip("the Omniglot zip files are not here")
    args = [str(ROOT / "scripts" / "make_challenge_runs.py"), str(OMNIGLOT), str(tmp_path / "runs"), "--runs", "2"]
    subprocess.run([sys.executable, *args], check=True, timeout=PATIENCE)
    runs = read_runs(tmp_path / "runs")
    table = OmniglotMinimal(str(OMNIGLOT), size=105).load()
    rows = {int(h): row for row, h in enumerate(hash_images(table.images).tolist())}
    for run in runs:
        drawn = [[rows[int(h)] for h in hash_images(part[:, None]).tolist()] for part in (run.training, run.test)]
        classes = [table.class_ids[part].tolist() for part in drawn]
        assert len({table.groups[c] for c in classes[0]}) == 1
        assert [classes[0][answer] for answer in run.answers.tolist()] == classes[1]
        assert len(set(classes[0])) == 20
        drawers = [
            {row - int(table.starts[c]) for row, c in zip(*pair, strict=True)}
            for pair in zip(drawn, classes, strict=True)
        ]
        assert [len(d) for d in drawers] == [1, 1]
        assert drawers[0] != drawers[1]
    assert runs_hash(runs) == runs_hash(read_runs(write_zip(tmp_path / "runs", tmp_path / "a.zip", "all_runs/")))
