"""Find the characters of `glyphs` in matplotlib's fonts and write the committed lists: characters and split files.

    python scripts/make_glyphs_lists.py

Scripts, not characters, are split: val and test scripts are the same in both splits.
"""

import json
import unicodedata
from collections import defaultdict

from genmeta.data.glyphs import CHARACTERS_FILE, FACES, charmap, class_name, keep_look_alikes_once
from genmeta.data.splits import SPLITS_FOLDER

# Look-alikes are kept in the script that comes first here: the small scripts before the large ones, so that the
# minimal split keeps its classes and a test script is not thinned out by the training scripts.
SCRIPTS = {
    "TIFINAGH": "Tifinagh",
    "LAO": "Lao",
    "HEBREW": "Hebrew",
    "NKO": "NKo",
    "OLD": "OldItalic",
    "GEORGIAN": "Georgian",
    "ARMENIAN": "Armenian",
    "GREEK": "Greek",
    "COPTIC": "Coptic",
    "OGHAM": "Ogham",
    "LISU": "Lisu",
    "ARABIC": "Arabic",
    "CYRILLIC": "Cyrillic",
    "LATIN": "Latin",
    "CANADIAN": "Canadian",
}
MINIMAL = ("Tifinagh", "Lao", "Hebrew", "NKo", "OldItalic")
VAL = ("Greek", "Coptic")
TEST = ("Georgian", "Armenian")
THRESHOLD = 0.08  # judged by eye on the pairs just below and above it


def letters() -> dict[str, list[str]]:
    """Return `{script: letters without a decomposition}` of all faces, in the order of `SCRIPTS`."""
    found = defaultdict(list)
    for code in sorted(set().union(*(charmap(face) for face in FACES))):
        character = chr(code)
        first = unicodedata.name(character, "").split(" ")[0]
        letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
        if letter and first in SCRIPTS and not unicodedata.decomposition(character):
            found[SCRIPTS[first]].append(character)
    return {script: found[script] for script in SCRIPTS.values()}


def main() -> None:
    """Write the three files."""
    by_script = letters()
    script_of = {character: script for script, characters in by_script.items() for character in characters}
    characters: dict[str, str] = dict.fromkeys(by_script, "")
    for character in keep_look_alikes_once(script_of, THRESHOLD):
        characters[script_of[character]] += character
    CHARACTERS_FILE.write_text(json.dumps(characters, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def classes(scripts: tuple[str, ...]) -> list[str]:
        return [class_name(script, c) for script in sorted(scripts) for c in characters[script]]

    full = tuple(script for script in characters if script not in VAL + TEST)
    SPLITS_FOLDER.mkdir(exist_ok=True)
    for name, train in (("glyphs_full", full), ("glyphs_minimal", MINIMAL)):
        split = {"dataset": "glyphs", "train": classes(train), "val": classes(VAL), "test": classes(TEST)}
        (SPLITS_FOLDER / f"{name}.json").write_text(json.dumps(split, indent=1) + "\n")
        print(name, {part: len(names) for part, names in split.items() if part != "dataset"})
    print({script: len(c) for script, c in characters.items()}, sum(map(len, characters.values())))


if __name__ == "__main__":
    main()
