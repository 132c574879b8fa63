"""``jlebm``: train, sample, evaluate, export and publish from the command line.

Exit codes: 0 done, 1 training diverged, 2 wrong use or a file that cannot be used (one sentence on
standard error).
"""

import argparse
import codecs
import os
import sys

from . import __version__, presets, rows
from .arguments import (
    configurer,
    device_of,
    device_option,
    natural,
    places,
    positive,
    seed,
    train_only_option,
)
from .configs import BUDGETS, PRESETS
from .datasets import NAMES, SHAPES, SPLITS, own_path, title
from .errors import Diverged, Interrupted, UsageError
from .experiments import EXPERIMENTS
from .settings import PICTURES, PRECISIONS

SPELLED = "jlebm.spelled"  # a way of writing what an encoding lacks


def spelled(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the encoding of a stream lacks: +- for ±, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    escaped = codecs.backslashreplace_errors(error)
    return escaped[0].replace("\\xb1", "+-"), escaped[1]


codecs.register_error(SPELLED, spelled)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Read when PyTorch is loaded, by the commands that need it. Threads that spin while they wait
    # for each other take the core from the very thread they wait for, where others want cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # of any encoding, and for names that no encoding has
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELLED)
    args = parser().parse_args(argv)
    try:
        places(args)
        if getattr(args, "data", None) is not None:
            own_path(args.data)  # a wrong name shows before PyTorch is imported
        args.run(args)
        if sys.stdout:  # else it was closed from the start
            sys.stdout.flush()
    except UsageError as error:
        complain(error)
        return 2
    except Diverged as error:
        complain(error)
        return 1
    except Interrupted as stopped:
        how = "--resume" if args.run is run_train else "the same command"
        on = f", and {how} goes on from there" if stopped.resumable else ""
        print(f"jlebm: interrupted; {stopped}{on}.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("jlebm: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has enough, as in `| head`; so has the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a path that cannot be used, a full disk
        path = error.filename2 or error.filename or "a file"
        complain(f"{path} cannot be used: {error.strerror or error}.")
        return 2
    return 0


def complain(reason: object) -> None:
    """One line on standard error, whatever the names of files in it are made of."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(reason))
    print(f"jlebm: {line}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="jlebm", description=__doc__.split("\n")[0])
    top.add_argument("--version", action="version", version=f"jlebm {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("train", help="train a system on a data set")
    p.add_argument("system", nargs="?", help=f"one of {', '.join(rows.SYSTEMS)}")
    p.add_argument("--data", help=f"{', '.join(NAMES)}, a folder of images, or an .npz file")
    p.add_argument("--preset", help=f"published settings: {', '.join(PRESETS)}")
    p.add_argument("--budget", choices=BUDGETS, default="cpu", help="how long (default: cpu)")
    p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings")
    p.add_argument("--seed", type=seed, default=0)
    p.add_argument("--out", help="folder of the run")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--save-every", type=positive, default=1000, metavar="STEPS")
    p.add_argument("--precision", choices=PRECISIONS, default="auto")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    device_option(p)
    p.set_defaults(run=run_train)

    p = commands.add_parser("sample", help="draw images from a trained system")
    p.add_argument("model", help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--n", type=positive, default=64)
    p.add_argument("--steps", type=natural, help="Langevin steps (default: as trained)")
    p.add_argument("--out", default="samples.png", help="a picture")
    p.add_argument("--seed", type=seed, default=0)
    device_option(p)
    p.set_defaults(run=run_sample, makes=("a picture", ("", *PICTURES)))

    p = commands.add_parser("evaluate", help="measure a trained system and record the figures")
    p.add_argument("model", help="a run's folder, or a shipped name")
    p.add_argument("--data", help="default: the data it was trained on")
    p.add_argument("--samples", type=positive, default=10_000, help="default: 10000")
    p.add_argument("--features", help="NAME-classifier or inception-v3-compat; default: the data's")
    p.add_argument("--weights", help="file of Inception's weights (else downloaded)")
    p.add_argument("--seed", type=seed, default=0)
    device_option(p)
    p.set_defaults(run=run_evaluate)

    p = commands.add_parser(
        "table", help="all systems on a data set: run what is missing, show all"
    )
    p.add_argument("--data", required=True, help=f"one of {', '.join(NAMES)}, or own data")
    p.add_argument("--budget", choices=BUDGETS, default="cpu", help="how long (default: cpu)")
    p.add_argument("--systems", nargs="+", default=list(rows.SYSTEMS), metavar="SYSTEM")
    p.add_argument("--seeds", nargs="+", type=seed, help="default: 0 1 2 for four rows, else 0")
    p.add_argument("--samples", type=positive, help="default: 10000, budget paper: 50000")
    p.add_argument("--features", help="default: the data's classifier, budget paper: Inception")
    p.add_argument("--weights", help="file of Inception's weights (else downloaded)")
    p.add_argument("--dry-run", action="store_true", help="print what would run, and how long")
    p.add_argument("--show", action="store_true", help="print the table of what there is")
    train_only_option(p)
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    device_option(p)
    p.set_defaults(run=run_table)

    p = commands.add_parser("experiment", help="run one of the paper's other experiments")
    p.add_argument("name", choices=EXPERIMENTS, metavar="NAME", help=f"{', '.join(EXPERIMENTS)}")
    p.add_argument("--trials", nargs="+", metavar="TRIAL", help="default: all")
    p.add_argument("--show", action="store_true", help="print the figures of what there is")
    train_only_option(p)
    p.add_argument("--publish", action="store_true", help="copy figures and weights into data/")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    device_option(p)
    p.set_defaults(run=run_experiment)

    p = commands.add_parser("export", help="write a trained system for the latent explorer")
    p.add_argument("model", help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--out", required=True, help="a .safetensors file, 2 MB at most")
    p.add_argument("--title", help="what the explorer's chooser shows")
    p.add_argument("--no-encoder", action="store_true", help="leave the inference network out")
    p.set_defaults(run=run_export, makes=("an export", (".safetensors",)))

    p = commands.add_parser("publish", help="copy an evaluated run into data/, to be committed")
    p.add_argument("folder", help="a run's folder")
    p.add_argument("--results-only", action="store_true", help="without the weights")
    p.set_defaults(run=run_publish)

    p = commands.add_parser("classifier", help="train the feature classifier of a data set")
    p.add_argument("--data", required=True)
    p.add_argument("--epochs", type=positive, help="default: those of the recipe of the data")
    p.add_argument("--seed", type=seed, default=0)
    p.set_defaults(run=run_classifier)

    p = commands.add_parser("features", help="ship the classifier features of a data set's images")
    p.add_argument("--data", required=True, help="a data set with a classifier")
    p.set_defaults(run=run_features)
    return top


def run_train(args: argparse.Namespace) -> None:
    configure, source = configurer(args)
    from . import data, runs

    device = device_of(args)
    images = None if source in SHAPES else data.load(source)  # own data say their name and shape
    name, shape = (images.name, images.shape) if images else (source, SHAPES[source])
    config = configure(name, shape)
    folder = args.out or runs.folder_of(config, args.seed, args.budget)
    runs.check_place(folder, resume=args.resume)
    options = ("seed", "budget", "resume", "precision", "save_every")
    result = runs.train_run(
        *(config, images or data.load(source), folder),
        device=device,
        progress=not args.quiet,
        **{k: getattr(args, k) for k in options},
    )
    print(f"{result['steps']} steps in {result['seconds']:.0f} s; the run lies in {folder}")


def run_sample(args: argparse.Namespace) -> None:
    from . import checkpoints, runs, systems

    stem, device = runs.model_stem(args.model), device_of(args)
    checkpoints.writable(args.out.parent, args.out.name)
    system = systems.load(stem).to(device)
    runs.save_samples(system, args.out, args.n, steps=args.steps, seed=args.seed)
    print(f"{args.n} samples in {args.out}")


def run_evaluate(args: argparse.Namespace) -> None:
    from . import data, runs, systems
    from .evaluate import features

    stem, device = runs.model_stem(args.model), device_of(args)
    own = systems.load(stem).config.data
    if not args.data and own not in NAMES:
        raise UsageError(f"{stem} was trained on images of your own, {own}: give their --data.")
    if args.data and data.load(args.data, "test", limit=1).name != own:
        raise UsageError(f"{stem} was trained on {own}, not on {args.data}.")
    features.check(args.features or own + features.SUFFIX, args.weights)
    with runs.measuring(stem) as file:
        splits = [data.load(args.data or own, split) for split in SPLITS]
        options = {k: getattr(args, k) for k in ("samples", "features", "weights", "seed")}
        for r in runs.evaluate_run(stem, *splits, device=device, **options):
            rest = ", ".join(f"{k} {v}" for k, v in r.items() if k not in ("name", "value"))
            print(f"{r['name']:28} {r['value']:10.4f}   {rest}")
    if file:
        print(f"recorded in {file}")


def run_table(args: argparse.Namespace) -> None:
    for name in args.systems:
        rows.row(name)
    if args.budget == "paper":
        presets.paper(args.systems[0], args.data)  # is it a data set of the papers?
    from . import data, table
    from .evaluate import features

    device = device_of(args)
    known = args.data in SHAPES
    images = None if known else data.load(args.data, limit=1)
    name, shape = (args.data, SHAPES[args.data]) if known else (images.name, images.shape)
    which = {"rows": args.systems, "seeds": args.seeds}
    todo = table.jobs(name, shape, args.budget, **which)
    if args.dry_run:
        for line in table.plan(todo, args.budget, device):
            print(line, flush=True)
        return
    paper = args.budget == "paper"
    chosen = args.features or (features.INCEPTION if paper else None)
    samples = args.samples or (50_000 if paper else 10_000)
    measure = {"samples": samples, "features": chosen, "weights": args.weights}
    failed = []
    if not args.show and any(job.state != "done" for job in todo):
        if not args.train_only:
            features.check(chosen or name + features.SUFFIX, args.weights)
        splits = [data.load(args.data, split) for split in SPLITS]
        how = {"budget": args.budget, "device": device, "progress": not args.quiet}
        how["train_only"] = args.train_only
        failed = table.run(todo, *splits, **how, **measure)
        todo = table.jobs(name, shape, args.budget, **which)
    found = [job.result for job in todo if job.result]
    print(table.text(name, table.lines(name, args.budget, found=found)))
    if failed:
        raise Diverged(" ".join(failed))


def run_experiment(args: argparse.Namespace) -> None:
    from .experiments import run

    failed = []
    run.chosen(args.name, args.trials)  # a wrong name shows whatever is asked for
    if not args.show and not args.publish:
        how = {"device": device_of(args), "progress": not args.quiet, "only": args.trials}
        how["train_only"] = args.train_only
        failed = run.run(args.name, **how)
    if args.publish:
        print(f"published {', '.join(run.publish(args.name))}")
    print(run.text(args.name))
    if failed:
        raise Diverged(" ".join(failed))


def run_export(args: argparse.Namespace) -> None:
    from . import checkpoints, runs, systems
    from .explorer import export

    stem = runs.model_stem(args.model)
    checkpoints.writable(args.out.parent, args.out.name)
    system = systems.load(stem)
    encoder = not args.no_encoder and system.inference.amortised
    done = export(system, args.out, title=args.title, encoder=encoder)
    parts = " and ".join(p for p in ("generator", "encoder") if done.description[p])
    print(f"{parts} of {done.description['title']}, {args.out.stat().st_size:,} bytes: {args.out}")


def run_publish(args: argparse.Namespace) -> None:
    """Copy a run's weights, codes and results to data/checkpoints and data/results."""
    from . import runs

    print(f"published {runs.publish(args.folder, weights=not args.results_only)}")


def run_classifier(args: argparse.Namespace) -> None:
    from . import checkpoints, data
    from .evaluate import classifier

    name = args.data if args.data in NAMES else data.load(args.data, limit=1).name
    stem = classifier.stem(name)
    if checkpoints.exists(stem):
        raise UsageError(
            f"there is a classifier of {name} at {stem}, and figures rest on it: move it away to "
            "fit another."
        )
    checkpoints.writable(stem.parent, *(f.name for f in checkpoints.files(stem)))
    train_set, test_set = (data.load(args.data, split) for split in SPLITS)
    epochs = args.epochs or classifier.recipe(name).epochs
    how = {"seed": args.seed, "epochs": epochs}
    model, accuracy = classifier.fit_classifier(train_set, test_set, **how)
    classifier.save_classifier(model, name, accuracy=accuracy, **how)
    print(f"{title(name)}: test accuracy {accuracy:.4f}; saved at {stem}")


def run_features(args: argparse.Namespace) -> None:
    from . import checkpoints, data
    from .evaluate import features

    name = args.data if args.data in NAMES else data.load(args.data, limit=1).name
    features.check(name + features.SUFFIX)
    stem = features.reference_stem(name)
    checkpoints.writable(stem.parent, *(f.name for f in checkpoints.files(stem)))
    train_set, test_set = (data.load(args.data, split) for split in SPLITS)
    features.save_reference(name, train_set.images, test_set.images)
    print(f"{title(name)}: features saved at {stem}")


if __name__ == "__main__":
    sys.exit(main())
