"""`genmeta challenge`: the Omniglot Challenge."""

from collections.abc import Sequence

from genmeta.cli.options import OptionParser
from genmeta.data.challenge import check_unseen_runs, read_runs, runs_hash
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.evaluation.challenge import Entry, overall, per_run, remark, run_errors
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.hausdorff import ModifiedHausdorff
from genmeta.models.backbones import uses_batch_statistics


def challenge(args: Sequence[str]) -> None:
    """Print the errors of a learner and of the modified Hausdorff distance on the Omniglot Challenge (20-way one-shot
    runs within an alphabet), for each run and overall, beside the published errors.

    Raises:
        UserError: an option or a file is wrong, or the learner has seen alphabets or images of the challenge.
    """
    parser = OptionParser("genmeta challenge", challenge.__doc__)
    parser.add_argument("--runs", required=True, help="all_runs.zip of the Omniglot release, or the folder in it")
    parser.add_argument("--ckpt", help="a learner's checkpoint; without it, only the baseline is tested")
    options = parser.parse_args(args)

    runs = read_runs(options.runs)
    entries = []
    notes = []
    if options.ckpt:
        loaded = load_learner(options.ckpt)
        channels, height, width = loaded.image_shape
        if channels != 1 or height != width:
            raise UserError(
                f"checkpoint {options.ckpt}: its learner is for images of shape {list(loaded.image_shape)}, but the "
                f"challenge has square ones of one channel"
            )
        for n_way in sorted({len(run.test) for run in runs}):
            loaded.learner.check(EpisodeShape(n_way, 1, 1), loaded.image_shape)
        check_unseen_runs(loaded.seen, runs, height, options.ckpt)
        seen = loaded.seen
        trained_on = f"{len(seen.train)} classes of {seen.dataset} ({seen.split_name})"
        entries.append(Entry(type(loaded.learner).__name__, trained_on, run_errors(loaded.learner, runs, height)))
        notes.append(f"{entries[0].method}: {options.ckpt}, images of {height} × {width} pixels.")
        if uses_batch_statistics(loaded.learner):
            notes.append("It is transductive: batch norm uses all test items of a run, the published methods one.")
    hausdorff = Entry("modified Hausdorff distance", "nothing", run_errors(ModifiedHausdorff(), runs))
    entries.append(hausdorff)
    print(f"{per_run(runs, entries)}\n\n{overall(entries)}\n")
    print(f"Mean ± 95 % interval over {len(runs)} runs of {options.runs} (hash {runs_hash(runs)}).", *notes)
    print(remark(runs, hausdorff))
    print("Published: Lake et al., Science 2015, and their progress report of 2019.")
