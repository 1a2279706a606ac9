"""`genmeta predict`: labels for pictures of classes that a learner has never seen, from a few examples of each."""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from genmeta.cli.newest import checkpoint_of
from genmeta.cli.options import OptionParser
from genmeta.cli.predict_sheet import contact_sheet
from genmeta.data.image_folder import list_folder
from genmeta.data.pictures import as_images, pictures_below
from genmeta.errors import UserError, printable, tell
from genmeta.experiments.run_folder import claim_out
from genmeta.learners.predictor import Predictions, Predictor, load

_INK_IS_LIGHT = ("glyphs", "omniglot", "digits")  # data sets whose drawings are light on dark
_MOST_LINES = 20  # of predictions on the terminal


def predict(args: Sequence[str]) -> None:
    """Label pictures: `predictions.csv`, `predictions.json` (all probabilities) and `contact_sheet.png`.

    Raises:
        UserError: an option or a picture is wrong, or the learner cannot work with so many classes.
    """
    options = _parse(args)
    model = load(checkpoint_of(options.ckpt), options.redrawer and checkpoint_of(options.redrawer))
    channels, size, _ = model.image_shape
    folder = Path(options.support).expanduser()
    if not folder.is_dir():
        raise UserError(f"--support: {folder}: no such folder; expected one with a folder of pictures for each class")
    listing = list_folder(folder)
    queries = Path(options.query).expanduser()
    files, account = pictures_below(queries)
    support = {of.name: as_images(of.files, size, channels, of.name) for of in listing.classes}
    query = as_images(files, size, channels, "--query")
    if options.invert:
        support, query = {name: 255 - images for name, images in support.items()}, 255 - query
    elif model.seen.dataset.startswith(_INK_IS_LIGHT) and float(query.float().mean()) > 127:
        tell(f"the pictures are light, but {model.seen.dataset} has light ink on dark; maybe you want --invert")
    predictions = model.predict(support, query)

    names = [str(file.relative_to(queries)) if queries.is_dir() else file.name for file in files]
    folder = claim_out(options.out, "predict")
    _write(folder, names, predictions)
    contact_sheet(support, query, names, predictions).save(folder / "contact_sheet.png")
    shots = sorted({len(images) for images in support.values()})
    print(f"learner      {_described(model)}")
    print(f"support      {len(support)} classes, {' to '.join(map(str, shots[:1] + shots[1:][-1:]))} pictures each")
    for of in (listing.account, account):
        if of.passed_over:
            print(f"             {of}")
    _say(names, predictions)
    print(f"predictions  {folder}/predictions.csv, predictions.json, contact_sheet.png", flush=True)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta predict", predict.__doc__)
    add = parser.add_argument
    add("--ckpt", required=True, help="a learner's run folder, or its checkpoint")
    add("--support", required=True, help="folder with the examples: <class>/ or <group>/<class>/, any number in each")
    add("--query", required=True, help="folder with the pictures to label, also in folders inside; or one picture")
    add("--redrawer", help="run or checkpoint of vae_deformation: 30 generated pictures beside each example")
    add(
        "--invert",
        action="store_true",
        help="use the negatives: for pictures of dark ink on light and a learner of light ink on dark",
    )
    add("--out", help="folder for the results (default runs/predict/<next number>)")
    return parser.parse_args(args)


def _described(model: Predictor) -> str:
    shape = "×".join(map(str, model.image_shape))
    seen = model.seen
    return f"{type(model.learner).__name__} of {shape} images, trained on {len(seen.train)} classes of {seen.dataset}"


def _say(names: Sequence[str], predictions: Predictions) -> None:
    labels = predictions.labels
    if len(names) <= _MOST_LINES:
        for name, label, confidence in zip(names, labels, predictions.confidences, strict=True):
            print(f"             {printable(name)}: {printable(label)} ({100 * confidence:.0f} %)")
        return
    counts = ", ".join(f"{n} {printable(label)}" for label, n in Counter(labels).most_common(_MOST_LINES))
    print(f"pictures     {len(names)}: {counts}")


def _write(folder: Path, names: Sequence[str], predictions: Predictions) -> None:
    """Write the tables. A file name that is no valid text is written as its bytes."""
    rows, classes = list(zip(names, predictions.labels, predictions.confidences, strict=True)), predictions.classes
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "class", "probability"])
        writer.writerows([name, label, f"{confidence:.6f}"] for name, label, confidence in rows)
    content = [
        {
            "picture": name,
            "class": label,
            "probability": confidence,
            "probabilities": dict(zip(classes, p, strict=True)),
        }
        for (name, label, confidence), p in zip(rows, predictions.probabilities.tolist(), strict=True)
    ]
    (folder / "predictions.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
