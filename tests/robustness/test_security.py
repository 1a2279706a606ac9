"""Files of others: nothing in them runs, nothing leaves its folder, none fills the memory; no key gets out."""

import codecs
import http.server
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
import yaml
from conftest import OMNIGLOT, PATIENCE, ROOT, make_table, slow_but
from hangs import at_most
from PIL import Image
from small_data import BUILD, drawing

from genmeta.cli.main import main
from genmeta.cli.parser import returns_network
from genmeta.cli.report.pictures import Album
from genmeta.data import plain_pickle
from genmeta.data.challenge import read_runs
from genmeta.data.decode import BadImageError, decode
from genmeta.data.learn2learn_sets import CUB200, DTD, FGVCAircraft, VGGFlowers
from genmeta.data.omniglot_minimal import FILES, read_zip
from genmeta.errors import UserError
from genmeta.evaluation.features import feature_network
from genmeta.learn2learn_import import import_learn2learn
from genmeta.models.checkpoint import read_checkpoint
from genmeta.tasks.sampler import TaskPool

REAL = ["--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"]
MIXED = ["--config=configs/learner/protonet.yaml", "--config=configs/policy/random_other_only.yaml"]
REDRAW = ["--config=configs/learner/protonet.yaml", "--config=configs/policy/redrawn.yaml"]
GAN = ["--config=configs/generator/gan_classic.yaml", "--data.feature_steps=2"]
QUICK = ["--config=configs/trainer/debug.yaml", "--run.wandb=off", "--trainer.devices=1", "--trainer.accelerator=cpu"]
GIGABYTE = 2**30


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


class Attack:
    """Makes a file when it is unpickled in the plain way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_the_attack_is_one(tmp_path):
    """The tests below mean something only if the pickle does run in pickle's own hands."""
    pickle.loads(pickle.dumps(Attack(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def refused(capsys, code: int, message: str = "") -> str:
    error = capsys.readouterr().err
    assert code == 2, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("genmeta: error: "), error
    assert message in last, error
    assert "Traceback" not in error
    return last


def run_folder(folder: Path, evil: Path, name: str) -> Path:
    """A run folder with a checkpoint of a given name."""
    (folder / "checkpoints").mkdir(parents=True)
    tree = {"data": yaml.safe_load((ROOT / "configs/tasks/redrawn.yaml").read_text())["data"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    shutil.copy(evil, folder / "checkpoints" / name)
    return folder


PLACES = {
    "generator": lambda evil, at: ["fit", *MIXED, *QUICK, f"--data.generator={evil}"],
    "redrawer": lambda evil, at: ["fit", *REDRAW, *QUICK, f"--data.redrawer={evil}"],
    "encoder backbone": lambda evil, at: ["fit", *REAL, *QUICK, *backbone("models.transfer.EncoderBackbone", evil)],
    "discriminator backbone": lambda evil, at: [
        *("fit", *REAL, *QUICK, *backbone("models.transfer.DiscriminatorBackbone", evil))
    ],
    "learner backbone": lambda evil, at: ["fit", *REAL, *QUICK, *backbone("learners.checkpoint.LearnerBackbone", evil)],
    "resume": lambda evil, at: ["fit", *REAL, *QUICK, f"--ckpt_path={evil}"],
    "resume last": lambda evil, at: [
        *("fit", *REAL, *QUICK, f"--ckpt_path={run_folder(at, evil, 'last.ckpt')}/checkpoints/last.ckpt")
    ],
    "resume previous": lambda evil, at: [
        *("fit", *REAL, *QUICK),
        f"--ckpt_path={run_folder(at, evil, 'previous.ckpt')}/checkpoints/last.ckpt",
    ],
    "validate learner": lambda evil, at: ["validate", *REAL, *QUICK, f"--ckpt_path={evil}"],
    "validate generator": lambda evil, at: ["validate", *GAN, *QUICK, f"--ckpt_path={evil}"],
    "test": lambda evil, at: ["test", *REAL, *QUICK, f"--ckpt_path={evil}"],
    "audit": lambda evil, at: ["audit", *MIXED, *QUICK, f"--data.generator={evil}"],
    "explore": lambda evil, at: ["explore", "--ckpt", str(evil), "--wandb", "off", "--out", str(at)],
    "explore with data": lambda evil, at: [
        *("explore", "--ckpt", str(evil), "--wandb", "off", "--out", str(at), "--data=glyphs")
    ],
    "challenge": lambda evil, at: ["challenge", "--ckpt", str(evil), f"--runs={challenge_zip(at)}"],
    "challenge runs": lambda evil, at: ["challenge", f"--runs={evil}"],
    "replay": lambda evil, at: ["replay", str(run_folder(at, evil, "non-finite.ckpt"))],
    "config": lambda evil, at: ["fit", f"--config={evil}"],
    "comparison": lambda evil, at: ["compare", f"--config={evil}"],
    "cluster": lambda evil, at: ["compare", "--config=configs/compare/policies.yaml", f"--cluster={evil}"],
    "experiment": lambda evil, at: ["experiment", "--runs", str(at), "--config", str(evil)],
    "data": lambda evil, at: ["data", "show", str(evil)],
    "split": lambda evil, at: ["fit", *REAL, *QUICK, f"--data.split={evil}"],
    "characters": lambda evil, at: [
        *("fit", *REAL, *QUICK, "--data.source=genmeta.data.glyphs.Glyphs", f"--data.source.characters={evil}")
    ],
    "font": lambda evil, at: [
        *("fit", *REAL, *QUICK, "--data.source=genmeta.data.glyphs.Glyphs"),
        f"--data.source.fonts=[{shutil.copy(evil, evil.with_suffix('.ttf'))}]",
    ],
    "zip of drawings": lambda evil, at: ["fit", *GAN, *QUICK, *OMNIGLOT_DATA, f"--data.source.folder={drawings(evil)}"],
    "results": lambda evil, at: ["report", str(in_folder(evil, "results.json")), f"--out={evil}.html"],
    "exploration": lambda evil, at: ["report", str(in_folder(evil, "report.json")), f"--out={evil}.html"],
    "run": lambda evil, at: ["report", str(in_folder(evil, "config.yaml")), f"--out={evil}.html"],
    "image": lambda evil, at: [*FOLDER, f"--folder={in_folder(evil, 'pictures/a/1.png').parents[0]}"],
}
READERS = ["generator", "learner backbone", "resume", "resume last", "test", "explore", "challenge", "challenge runs"]
READERS += [
    "replay",
    "config",
    "comparison",
    "data",
    "split",
    "characters",
    "font",
    "zip of drawings",
    "results",
    "image",
]
"""A place for each piece of code that reads files; others read by the same."""
OMNIGLOT_DATA = ["--config=configs/data/omniglot_minimal.yaml"]
FOLDER = ["data", "prepare", "image_folder"]


def backbone(kind: str, checkpoint: Path) -> list[str]:
    return [
        f"--model.learner.backbone=genmeta.{kind}",
        f"--model.learner.backbone.checkpoint={checkpoint}",
    ]


def in_folder(evil: Path, name: str) -> Path:
    path = evil.parent / "folder" / name
    path.parent.mkdir(parents=True)
    shutil.copy(evil, path)
    return path.parent


def drawings(evil: Path) -> Path:
    for name in FILES:
        shutil.copy(evil, evil.parent / name)
    return evil.parent


def challenge_zip(folder: Path) -> Path:
    """Two items, two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "runs.zip", "w") as archive:
        lines = [f"run01/test/item{i:02d}.png run01/training/class{i:02d}.png" for i in (1, 2)]
        archive.writestr("run01/class_labels.txt", "\n".join(lines))
        for line in lines:
            for name in line.split():
                archive.writestr(name, drawing(len(name)))
    return folder / "runs.zip"


@pytest.mark.parametrize("form", ["torch", pytest.param("pickle", marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", slow_but(READERS, PLACES))
def test_a_file_that_would_run_code_is_refused_wherever_it_is_given(place, form, tmp_path, capsys):
    """Bug: one reader that forgets `weights_only`, or falls back to a plain unpickler."""
    evil = tmp_path / "evil.ckpt"
    if form == "torch":
        torch.save({"state_dict": {}, "genmeta": Attack(tmp_path / "ran")}, evil)
    else:
        evil.write_bytes(pickle.dumps({"state_dict": Attack(tmp_path / "ran")}))
    refused(capsys, main(PLACES[place](evil, tmp_path / "at")))
    assert not (tmp_path / "ran").exists(), "code in the file was run"


def test_a_feature_network_in_the_cache_that_would_run_code_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path))
    table = make_table()
    ids = torch.arange(4)
    rows = [(table.class_ids == i).nonzero().flatten() for i in ids]
    pool = TaskPool.of_rows(rows, torch.zeros_like(ids))
    before = feature_network(table.images, pool, "key", 1).hash
    (path,) = tmp_path.glob("features-*.pt")
    torch.save({"x": Attack(tmp_path / "ran")}, path)
    assert feature_network(table.images, pool, "key", 1).hash == before
    assert not (tmp_path / "ran").exists()
    assert torch.load(path, weights_only=True)


def test_aircraft_labels_that_would_run_code_are_refused(tmp_path, monkeypatch):
    """`labels.pkl` is learn2learn's own file; it is in none of the lists of files that are asked for."""
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    BUILD["fgvc_aircraft"](tmp_path)
    (labels,) = [path.parent for path in tmp_path.rglob("images_variant_train.txt")]
    (labels / "labels.pkl").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(UserError, match="only arrays and plain values"):
        FGVCAircraft(str(tmp_path)).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "class_path",
    slow_but(["venv.__main__.Net"], ["venv.__main__.Net", "antigravity.Net", "idlelib.idle.Net", "torch.__main__.N"]),
)
@pytest.mark.parametrize("kind", ["generator", "learner"])
def test_a_checkpoint_cannot_have_programs_imported(kind, class_path, request, tmp_path, capsys):
    """Bug: `venv.__main__`, imported to look for a class in it, parses our command line and ends the process."""
    state = torch.load(request.getfixturevalue(kind), weights_only=True)
    if kind == "generator":
        state["genmeta"]["networks"]["decoder"]["class"] = class_path
    else:
        state["genmeta"]["learner"]["class_path"] = class_path
    torch.save(state, tmp_path / "a.ckpt")
    args = {
        "generator": ["fit", *MIXED, *QUICK, f"--data.generator={tmp_path / 'a.ckpt'}"],
        "learner": ["challenge", "--ckpt", str(tmp_path / "a.ckpt"), f"--runs={challenge_zip(tmp_path)}"],
    }
    refused(capsys, main(args[kind]), f"class {class_path} is not installed")
    assert class_path.rpartition(".")[0] not in sys.modules


PARTS = {
    "model": None,
    "data": None,
    "model.init_args.learner": None,
    "model.init_args.learner.init_args.backbone": None,
    "model.init_args.optimizer": None,
    "model.init_args.lr_scheduler": None,
    "data.init_args.source": None,
    "data.init_args.train_tasks": None,
    "trainer.callbacks": list,
    "trainer.logger": list,
    "trainer.plugins": list,
    "trainer.strategy": None,
    "trainer.profiler": None,
}
CALLS = {
    "os.system": lambda marker, script: {"command": f"touch {marker}"},
    "subprocess.Popen": lambda marker, script: {"args": ["touch", str(marker)]},
    "subprocess.check_output": lambda marker, script: {"args": ["touch", str(marker)]},
    "builtins.exec": lambda marker, script: {"source": f"open({str(marker)!r}, 'w')"},
    "builtins.open": lambda marker, script: {"file": str(marker), "mode": "w"},
    "os.mkdir": lambda marker, script: {"path": str(marker)},
    "runpy.run_path": lambda marker, script: {"path_name": str(script)},
    "torch.load": lambda marker, script: {"f": str(script.with_suffix(".pkl")), "weights_only": False},
}


QUICK_CALLS = [(part, "os.system") for part in PARTS] + [("model.init_args.optimizer", called) for called in CALLS]
SLOW_CALLS = [(part, called) for part in PARTS for called in CALLS if (part, called) not in QUICK_CALLS]


@pytest.mark.parametrize(
    ("part", "called"),
    [*dict.fromkeys(QUICK_CALLS), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CALLS)],
)
def test_a_yaml_makes_only_what_belongs_in_its_place(part, called, tmp_path, capsys):
    """Bug: `model.optimizer` is a function's place, for which the parser called any function; `os.system` ran."""
    marker, script = tmp_path / "ran", tmp_path / "script.py"
    script.write_text(f"open({str(marker)!r}, 'w')")
    script.with_suffix(".pkl").write_bytes(pickle.dumps(Attack(marker)))
    value = {"class_path": called, "init_args": CALLS[called](marker, script)}
    tree = [value] if PARTS[part] is list else value
    for key in reversed(part.split(".")):
        tree = {key: tree}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(tree))
    args = ["fit", *REAL, *QUICK, f"--run.folder={tmp_path / 'runs'}", f"--config={tmp_path / 'evil.yaml'}"]
    refused(capsys, main(args))
    assert not marker.exists(), "it was called"
    assert not (tmp_path / "runs").exists()


def test_backbones_of_torchvision_are_still_made():
    """They are functions: the check above must not refuse them."""
    assert returns_network(torchvision.models.resnet18)
    assert not returns_network(os.system)
    assert not returns_network(torch.hub.load)


OUTSIDE = Path(tempfile.gettempdir()) / "evil-of-genmeta"
NAMES = ["../evil", "../../evil", str(OUTSIDE), "a/../../evil", "..\\evil", "set/../../../evil.png"]


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", slow_but([NAMES[1], NAMES[2]], NAMES))
def test_names_in_a_zip_lead_nowhere(name, tmp_path, capsys):
    """Bug: a reader that unpacks by the names that stand in the zip."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for file in (*FILES, "all_runs.zip"):
        with zipfile.ZipFile(inner / file, "w") as archive:
            link = zipfile.ZipInfo("set/Greek/character01/2.png")
            link.external_attr = 0o120777 << 16  # a symbolic link
            archive.writestr(link, "/etc/passwd")
            archive.writestr(name, drawing(1))
    before = listing(tmp_path)
    refused(capsys, main(["fit", *GAN, *QUICK, *OMNIGLOT_DATA, f"--data.source.folder={inner}"]), "no zip of PNG files")
    refused(capsys, main(["challenge", f"--runs={inner / 'all_runs.zip'}"]), "holds no run01/class_labels.txt")
    assert listing(tmp_path) == before
    assert not OUTSIDE.exists()


@pytest.fixture
def serve(tmp_path):
    """A server on this machine that gives the same content for every address."""
    content: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content[0])))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield content, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("attack", ["upwards", "absolute", "link", "device"])
@pytest.mark.parametrize(
    ("source", "module", "constant"),
    [(CUB200, "cu_birds200", "ZENODO_URL"), (DTD, "describable_textures", "ARCHIVE_URL")],
)
def test_a_downloaded_archive_is_unpacked_into_its_folder_only(
    source, module, constant, attack, serve, tmp_path, monkeypatch
):
    """Bug: learn2learn calls `extractall`, which writes wherever the archive says."""
    content, address = serve
    outside, folder = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            text = b"evil" if kind == tarfile.REGTYPE else b""
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))

        if attack == "upwards":
            add("../" * 20 + str(outside).lstrip("/") + "/evil")
        elif attack == "absolute":
            add(str(outside / "evil"))
        elif attack == "device":
            add("evil", tarfile.CHRTYPE)
        else:
            add("way", tarfile.SYMTYPE, str(outside))
            add("way/evil")
    content.append(file.getvalue())
    monkeypatch.setattr(getattr(import_learn2learn().vision.datasets, module), constant, f"{address}archive.tgz")
    monkeypatch.setattr(  # the way out that learn2learn takes when the first address fails
        getattr(import_learn2learn().vision.datasets, module), "download_file_from_google_drive", None, raising=False
    )
    with pytest.raises(UserError, match="cannot download"):
        source(str(folder), download=True).load()
    assert list(outside.iterdir()) == []


def png(width: int, height: int, lines: int = 0) -> bytes:
    """A PNG that says it has so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(lines * (width + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


LIMITED = """
import resource, sys, warnings
import torch, numpy, PIL.PngImagePlugin, scipy.io
{imports}
from genmeta.errors import UserError
def used(): return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used() + 600 * 2**20,) * 2)  # what is refused must need less
try:
    {call}
except UserError as error:
    print("refused:", error)
"""


def in_little_memory(imports: str, call: str) -> str:
    """Return what a call says in a process that may take 600 MB; it must be refused, without warnings on the way."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    code = LIMITED.format(imports=imports, call=call)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("refused: "), done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "MemoryError" not in done.stdout, "it was refused by the machine, not by us"
    return done.stdout


def bomb(path: Path, name: str, size: int = 2 * GIGABYTE) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        for _ in range(size >> 20):
            file.write(bytes(2**20))


def test_a_checkpoint_that_unpacks_to_gigabytes_is_refused(tmp_path):
    """Bug: torch reads compressed zips too, which it never writes."""
    torch.save({"state_dict": {"w": torch.zeros(4)}}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for member in whole.infolist():
            with archive.open(member.filename, "w", force_zip64=True) as file:
                file.write(whole.read(member))
                for _ in range(1024 if member.filename.endswith("data/0") else 0):
                    file.write(bytes(2**20))
    said = in_little_memory(
        "from genmeta.models.checkpoint import read_checkpoint", f"read_checkpoint({str(tmp_path / 'bomb.ckpt')!r})"
    )
    assert "maybe a zip bomb" in said


def test_a_checkpoint_whose_tensor_claims_more_than_it_stores_is_refused(tmp_path):
    """Bug: 4 bytes that are a tensor of a terabyte, until something copies it."""
    torch.save({"state_dict": {"w": [{"v": torch.zeros(1).expand(2**38)}]}}, tmp_path / "wide.ckpt")
    assert (tmp_path / "wide.ckpt").stat().st_size < 5000
    with pytest.raises(UserError, match="is stored in less than it needs"):
        read_checkpoint(tmp_path / "wide.ckpt")
    torch.save({"state_dict": {"w": torch.ones(100)[3:7].view(2, 2).T}}, tmp_path / "view.ckpt")
    assert read_checkpoint(tmp_path / "view.ckpt")["state_dict"]["w"].shape == (2, 2)


def test_a_zip_of_drawings_that_unpacks_to_gigabytes_is_refused(tmp_path):
    bomb(tmp_path / "bomb.zip", "set/Greek/character01/1.png", GIGABYTE)
    said = in_little_memory(
        "from pathlib import Path; from genmeta.data.omniglot_minimal import read_zip",
        f"read_zip(Path({str(tmp_path / 'bomb.zip')!r}), 28)",
    )
    assert "maybe a zip bomb" in said


def test_challenge_runs_that_unpack_to_gigabytes_are_refused(tmp_path):
    """Bug: each file has a limit, and there may be any number of them."""
    with zipfile.ZipFile(tmp_path / "runs.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(1100):
            archive.writestr(f"run01/test/item{number}.png", bytes(2**20))
    assert (tmp_path / "runs.zip").stat().st_size < 10 * 2**20
    said = in_little_memory(
        "from genmeta.data.challenge import read_runs", f"read_runs({str(tmp_path / 'runs.zip')!r})"
    )
    assert "unpacks to more than 67108864 bytes" in said


@pytest.mark.parametrize(("width", "height"), [(10000, 10000), (60000, 60000)])  # PIL warns of one, refuses the other
def test_pictures_of_too_many_pixels_are_refused_without_a_warning(width, height, tmp_path):
    """Bug: PIL only warns of up to 179 million pixels, and decodes them."""
    content = png(width, height, 10)
    with pytest.raises(BadImageError, match="too many pixels"):
        decode(content, 28, 1)
    path = challenge_zip(tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["run01/test/item01.png"] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, its in files.items():
            archive.writestr(name, its)
    with pytest.raises(UserError, match="item01"):
        read_runs(path)
    with zipfile.ZipFile(tmp_path / "small1.zip", "w") as archive:
        archive.writestr("set/Greek/character01/1.png", content)
    with pytest.raises(UserError, match="too many pixels"):
        read_zip(tmp_path / "small1.zip", 28)
    (tmp_path / "bomb.png").write_bytes(content)
    album = Album(10**6)
    album.add([(tmp_path / "bomb.png", "")])
    assert "cannot be shown" in album.figures()((tmp_path / "bomb.png", ""))


@pytest.mark.parametrize("form", ["EPS", "TIFF", "BMP", "PPM", "ICO"])
def test_a_report_reads_png_and_jpeg_only(form, tmp_path):
    """Bug: the decoder of EPS starts Ghostscript, and a file says what it is by its content, not by its name."""
    with (tmp_path / "picture.png").open("wb") as file:
        Image.new("RGB", (16, 16)).save(file, form)
    album = Album(10**6)
    album.add([(tmp_path / "picture.png", "")])
    assert "cannot be shown" in album.figures()((tmp_path / "picture.png", ""))


def pickled(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


def test_a_pickle_cannot_grow_by_encoding_again_and_again():
    """Bug: `codecs.encode` with the codec `hex` doubles a text; forty times is a terabyte out of 600 bytes."""
    grow = b"c_codecs\nencode\n"
    content = pickled(grow * 33 + b"X\x01\x00\x00\x00a", *[b"X\x03\x00\x00\x00hex\x86R"] * 33)
    assert len(codecs.encode(codecs.encode(b"a", "hex"), "hex")) == 4
    with pytest.raises(pickle.UnpicklingError, match="not written as pickles do"):
        plain_pickle.load(io.BytesIO(content))


@pytest.mark.parametrize("with_arrays", [False, True])
def test_a_pickle_whose_lists_hold_the_same_list_twice_stays_small(with_arrays, tmp_path):
    """Bug: lists that hold the one before twice, sixty deep, were copied out: 2**60 entries of a file of a kilobyte."""
    value: object = [np.zeros(2**20, np.uint8)] if with_arrays else ["x"]
    for _ in range(60):
        if with_arrays:
            held = np.empty(2, object)
            held[:] = [value, value]
            value = held
        else:
            value = [value, value]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, 2))
    code = f"from genmeta.data import plain_pickle as p; x = p.load(open({str(tmp_path / 'x.pkl')!r}, 'rb')); x[0][1]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    shared = plain_pickle.load(io.BytesIO(pickle.dumps([a := np.arange(3), a])))
    assert shared[0] is shared[1]


def test_a_matlab_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    """Bug: scipy unpacks a compressed variable whatever its size."""
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "vgg_flower102"
    (folder / "jpg").mkdir(parents=True)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.zeros((1, 2**27), np.uint8)}, do_compression=True)
    assert (folder / "imagelabels.mat").stat().st_size < 2**18
    with pytest.raises(UserError, match=r"imagelabels\.mat: has \d+ bytes"):
        VGGFlowers(str(tmp_path)).load()


def laughs() -> str:
    """YAML of 600 bytes that means 10**12 words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(lines) + "\n"


YAML_COMMANDS = {
    "fit": lambda path: ["fit", f"--config={path}"],
    "compare": lambda path: ["compare", f"--config={path}"],
    "cluster": lambda path: ["compare", "--config=configs/compare/policies.yaml", f"--cluster={path}"],
    "experiment": lambda path: ["experiment", "--config", str(path), "--runs", f"{path}-runs"],
    "data": lambda path: ["data", "show", str(path)],
    "report": lambda path: ["report", str(in_folder(path, "config.yaml")), f"--out={path}.html"],
}


@pytest.mark.parametrize("command", YAML_COMMANDS)
@pytest.mark.parametrize("what", slow_but(["laughs"], ["laughs", "deep"]))
def test_a_yaml_that_would_fill_the_memory_is_refused(command, what, tmp_path, capsys):
    """Bug: ten aliases of ten aliases of …, written out in full by whoever walks through them; or too deep brackets."""
    (tmp_path / "x.yaml").write_text(laughs() if what == "laughs" else "a: " + "[" * 5000)
    with at_most(20, command):
        code = main(YAML_COMMANDS[command](tmp_path / "x.yaml"))
    assert len(refused(capsys, code)) < 3000


SECRETS = {
    "WANDB_API_KEY": "5ec2e7" + "0123456789abcdef" * 2 + "aa",
    "AWS_SECRET_ACCESS_KEY": "awsmarkerwJalrXUtnFEMIbPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "awssessionmarker0123456789",
    "HF_TOKEN": "hf_markermarkermarkermarker",
    "GITHUB_TOKEN": "ghp_markermarkermarkermarker0123",
    "MY_DATABASE_PASSWORD": "databasemarker-pass-word",
}


@pytest.mark.slow
def test_no_key_of_the_environment_gets_into_a_run_folder_or_a_report(tmp_path):
    """Bug: W&B's metadata, or our own summary of the machine, copying the environment."""
    assert len(SECRETS["WANDB_API_KEY"]) == 40
    environment = {**os.environ, **SECRETS, "OMP_NUM_THREADS": "1"}
    environment.pop("WANDB_MODE", None)
    runs, said = tmp_path / "runs", ""
    for args in (
        [*("fit", *REAL, *QUICK, "--run.wandb=offline", f"--run.folder={runs}", "--run.name=run")],
        ["report", str(runs / "run" / "001"), f"--out={tmp_path / 'report.html'}"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "genmeta", *args], capture_output=True, env=environment, cwd=ROOT, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr.decode()
        said += done.stdout.decode() + done.stderr.decode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files), "W&B recorded nothing"
    for name, secret in SECRETS.items():
        assert secret not in said, name
        for path in files:
            assert secret.encode() not in path.read_bytes(), f"{name} is in {path}"


def test_results_of_others_lead_into_no_other_folder(tmp_path, capsys):
    """Bug: a comparison's `results.json` names runs; `../../private` would put another run's settings on the page."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "config.yaml").write_text("model: {class_path: x}\nrun: {name: private-name}\n")
    there = tmp_path / "given"
    there.mkdir()
    arm = {"title": "A", "accuracies": {"5w1s": {"0": [0.5, 0.6]}}}
    for folder in ("../private", str(private)):
        results = {"kind": "comparison", "arms": {"a": {**arm, "fits": {"0": folder}}}, "comparisons": []}
        (there / "results.json").write_text(json.dumps(results))
        refused(capsys, main(["report", str(there), f"--out={tmp_path / 'page.html'}"]), "outside")


def test_a_name_in_a_file_cannot_change_the_terminal_or_break_the_line(tmp_path, capsys):
    """Bug: a class name with a line break or an escape code was printed as it is."""
    split = {"dataset": "glyphs", "train": ["a\n\x1b[2Jgenmeta: all is well\ud800"] * 2, "val": ["b"], "test": ["c"]}
    (tmp_path / "x.json").write_text(json.dumps(split))
    line = refused(capsys, main(["fit", *REAL, *QUICK, f"--data.split={tmp_path / 'x.json'}"]), "is in 'train' and in")
    assert line.isprintable()


def test_the_real_zips_are_still_read():
    """The limits above must let the published files pass."""
    if not OMNIGLOT.is_dir():
        pytest.skip("the files are not here")
    assert len(read_zip(OMNIGLOT / FILES[0], 28)) == 136
