"""Write the committed splits of Omniglot, from the numbers of characters of its alphabets.

    python scripts/make_omniglot_splits.py

The authors number the characters of an alphabet from 01, so the names follow from the numbers. These are those of the
release (964 characters in 30 background alphabets, 659 in 20 evaluation alphabets).
"""

import json

from genmeta.data.splits import SPLITS_FOLDER

BACKGROUND = {
    "Alphabet_of_the_Magi": 20,
    "Anglo-Saxon_Futhorc": 29,
    "Arcadian": 26,
    "Armenian": 41,
    "Asomtavruli_(Georgian)": 40,
    "Balinese": 24,
    "Bengali": 46,
    "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
    "Braille": 26,
    "Burmese_(Myanmar)": 34,
    "Cyrillic": 33,
    "Early_Aramaic": 22,
    "Futurama": 26,
    "Grantha": 43,
    "Greek": 24,
    "Gujarati": 48,
    "Hebrew": 22,
    "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
    "Japanese_(hiragana)": 52,
    "Japanese_(katakana)": 47,
    "Korean": 40,
    "Latin": 26,
    "Malay_(Jawi_-_Arabic)": 40,
    "Mkhedruli_(Georgian)": 41,
    "N_Ko": 33,
    "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
    "Sanskrit": 42,
    "Syriac_(Estrangelo)": 23,
    "Tagalog": 17,
    "Tifinagh": 55,
}
EVALUATION = {
    "Angelic": 20,
    "Atemayar_Qelisayer": 26,
    "Atlantean": 26,
    "Aurek-Besh": 26,
    "Avesta": 26,
    "Ge_ez": 26,
    "Glagolitic": 45,
    "Gurmukhi": 45,
    "Kannada": 41,
    "Keble": 26,
    "Malayalam": 47,
    "Manipuri": 40,
    "Mongolian": 30,
    "Old_Church_Slavonic_(Cyrillic)": 45,
    "Oriya": 46,
    "Sylheti": 28,
    "Syriac_(Serto)": 23,
    "Tengwar": 25,
    "Tibetan": 42,
    "ULOG": 26,
}
# the five alphabets that validate in the split of ProtoNet's reference code, all of them background alphabets
VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
# the 423 test characters of that split: these alphabets and the last four characters of Gurmukhi
VINYALS_TEST = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)


def names(alphabets: dict[str, int]) -> list[str]:
    """Return the class names of some alphabets."""
    return [f"{alphabet}/character{i:02d}" for alphabet, n in alphabets.items() for i in range(1, n + 1)]


def main() -> None:
    """Write both files."""
    everything = names(BACKGROUND | EVALUATION)
    val = [name for name in everything if name.split("/")[0] in VAL]
    last_of_gurmukhi = [f"Gurmukhi/character{i}" for i in range(42, 46)]
    vinyals_test = [n for n in everything if n.split("/")[0] in VINYALS_TEST or n in last_of_gurmukhi]
    write(
        "omniglot",
        "The authors' split (Lake et al., Science 2015): 30 background and 20 evaluation alphabets. They name no "
        "validation part; the five background alphabets are those that validate in omniglot_vinyals.",
        train=[name for name in names(BACKGROUND) if name not in val],
        val=val,
        test=names(EVALUATION),
    )
    write(
        "omniglot_vinyals",
        "1,200 characters to train (1,028) and validate (172), 423 to test, as in Vinyals et al. (NeurIPS 2016), "
        "in the form of ProtoNet's reference code (github.com/jakesnell/prototypical-networks, "
        "data/omniglot/splits/vinyals) without its rotations. As there, Gurmukhi is in train and test, with "
        "different characters.",
        train=[name for name in everything if name not in val and name not in vinyals_test],
        val=val,
        test=vinyals_test,
    )


def write(name: str, source: str, **parts: list[str]) -> None:
    """Write a split file."""
    content = {"source": source, "dataset": "omniglot", **parts}
    (SPLITS_FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(name, {part: len(classes) for part, classes in parts.items()})


if __name__ == "__main__":
    main()
