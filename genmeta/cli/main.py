"""`genmeta`: the command line."""

import pkgutil
import sys
from collections.abc import Sequence

import genmeta
from genmeta.cli.memory import keep_freed_memory
from genmeta.errors import UserError, nearest
from genmeta.output import discard_stdout

USAGE = """usage: genmeta COMMAND ...

  fit         train a generative model or a learner:  genmeta fit --config configs/generator/gan.yaml
  validate    evaluate a checkpoint on the validation episodes
  test        evaluate a checkpoint on the test episodes
  experiment  pretrain, meta-train with and without generated tasks, meta-test, compare
  compare     arms x seeds of a YAML on the same test episodes: what differs, and how sure that is
  challenge   the Omniglot Challenge: a learner's error beside the published ones
  predict     name pictures of new classes, by a few examples of each:  genmeta predict --ckpt RUN --support … --query …
  export      a trained model for others: safetensors, JSON, a card with its figures:  genmeta export RUN
  explore     look into a generator's latent space: clusters, maps, interpolations, one interactive page
  report      run folders as one page: tables, curves, pictures, what they differ in:  genmeta report RUN...
  audit       are the generated classes of a run fit to learn from? before time is spent on training
  replay      the batch at which a training met NaN, once more: where does it begin?  genmeta replay RUN
  data        list the data sets, prepare one, show one:  genmeta data show omniglot_minimal
genmeta COMMAND --help tells the options of one of them, genmeta --version which genmeta this is. YAMLs of configs/ come
with the package and are found from any folder; yours are files."""
TRAINING = ("fit", "validate", "test")
OTHERS = ("experiment", "compare", "challenge", "predict", "export", "explore", "audit", "report", "replay", "data")
COMMANDS = (*TRAINING, *OTHERS)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: all went well. 1: `audit --strict` raised a flag, runs of `compare` or `experiment` failed, or `replay` found
    nothing. 2: wrong input, or a fault of the machine; both are told in one line. 130: Ctrl-C. 141: nobody reads the
    output (`| head`).
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"genmeta {genmeta.__version__}")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"no command '{args[0]}'; there are {', '.join(COMMANDS)}{nearest(args[0], COMMANDS)}")
        keep_freed_memory()
        # imported here, so that a wrong command is told at once
        if args[0] in TRAINING:
            from genmeta.cli.training import TrainingCLI

            TrainingCLI(args).run()
            return 0
        # the command `audit` is the function `audit` of the file audit.py; it returns the exit code, or None for 0
        return pkgutil.resolve_name(f"genmeta.cli.{args[0]}:{args[0]}")(args[1:]) or 0
    except UserError as error:
        print(f"genmeta: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"genmeta: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        discard_stdout()
        print("genmeta: nobody reads the output any more", file=sys.stderr)
        return 141  # as of a program that SIGPIPE ends
    except Exception as error:
        from genmeta.cli.faults import what_happened  # here: it imports torch

        if (what := what_happened(error)) is None:
            raise
        print(f"genmeta: error: {what}", file=sys.stderr)
        return 2


def entry() -> None:
    """Console script."""
    sys.exit(main())
