"""The page of a comparison with a subject: one arm, compared with every other trained arm.

Few seeds say little about how much trainings differ. So the numbers are means over seeds with intervals over episodes,
each seed's difference stands beside them, and the subject is better only where all seeds agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.results import Arm, Difference, paired
from genmeta.experiments.settings import CompareSettings
from genmeta.experiments.tables import over_episodes_rows
from genmeta.experiments.words import in_one_line


def differences_of(subject: str, arms: Mapping[str, Arm]) -> list[Difference]:
    """Return how the subject differs from every other trained arm, then from its own learners tested in another way."""
    controls = [name for name, arm in arms.items() if arm.fits and name != subject]
    ways = [name for name, arm in arms.items() if arm.learner == subject]
    pairs = [*((subject, control) for control in controls), *((way, subject) for way in ways)]
    return [one for pair in pairs for one in paired(arms, *pair)]


def page_of(
    settings: CompareSettings,
    results: Mapping[str, Any],
    differences: Sequence[Difference],
    arms: Mapping[str, Arm],
    has_generator: bool,
) -> str:
    """Return the Markdown page: the table, a line for each difference, a sentence, notes on the numbers.

    Nothing in it depends on the clock: the same comparison writes the same page.
    """
    lines = [in_one_line(one, arms) for one in differences]
    table = markdown_table(over_episodes_rows(list(arms.values())))
    return (
        "\n".join([table, "", *lines, "", results["sentence"], "", _notes(settings, results, arms, has_generator)])
        + "\n"
    )


def _notes(settings: CompareSettings, results: Mapping[str, Any], arms: Mapping[str, Arm], has_generator: bool) -> str:
    episodes = ", ".join(
        f"{len(next(iter(by_seed.values())))} of {shape}, hash {results['episodes'][shape]}"
        for shape, by_seed in arms[settings.subject].accuracies.items()
    )
    several = len(settings.seeds) > 1
    seeds = f"training seeds {', '.join(map(str, settings.seeds))}" if several else "one training seed"
    one_generator = has_generator and settings.generator_seed is not None
    generator = f"; one generator, seed {settings.generator_seed}" if one_generator else ""
    return (
        f"Accuracy in % on classes that neither generator nor learner has seen (split {results['split']['name']}, hash "
        f"{results['split']['hash']}), mean of {seeds}{generator}; ± 95 % interval over test episodes ({episodes}); "
        f"the same episodes in all rows."
    )
