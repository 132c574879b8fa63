"""``jlebm``: train, sample, evaluate, export and publish from the command line.

Exit codes: 0 done, 1 training diverged, 2 wrong use or a file that cannot be used (one sentence on
standard error).
"""

import argparse
import os
import sys
from pathlib import Path

from . import __version__, presets, rows
from .arguments import (
    configurer,
    device_of,
    device_option,
    natural,
    positive,
    seed,
    train_only_option,
)
from .configs import BUDGETS, PRESETS
from .datasets import NAMES, SHAPES, SPLITS, own_path, title
from .errors import Diverged, UsageError
from .experiments import EXPERIMENTS
from .settings import PRECISIONS


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        if getattr(args, "data", None):
            own_path(args.data)  # a wrong name shows before PyTorch is imported
        args.run(args)
        sys.stdout.flush()
    except UsageError as error:
        print(f"jlebm: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"jlebm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jlebm: interrupted; --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has enough, as in `| head`; so has the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a path that cannot be used, a full disk
        path = error.filename2 or error.filename or "a file"
        print(f"jlebm: {path} cannot be used: {error.strerror or error}.", file=sys.stderr)
        return 2
    return 0


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
    p.add_argument("--out", type=Path, help="folder of the run")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--save-every", type=positive, default=1000, metavar="STEPS")
    p.add_argument("--precision", choices=PRECISIONS, default="auto")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    device_option(p)
    p.set_defaults(run=run_train)

    p = commands.add_parser("sample", help="draw images from a trained system")
    p.add_argument("model", type=Path, help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--n", type=positive, default=64)
    p.add_argument("--steps", type=natural, help="Langevin steps (default: as trained)")
    p.add_argument("--out", type=Path, default=Path("samples.png"))
    p.add_argument("--seed", type=seed, default=0)
    device_option(p)
    p.set_defaults(run=run_sample)

    p = commands.add_parser("evaluate", help="measure a trained system and record the figures")
    p.add_argument("model", type=Path, help="a run's folder, or a shipped name")
    p.add_argument("--data", help="default: the data it was trained on")
    p.add_argument("--samples", type=positive, default=10_000, help="default: 10000")
    p.add_argument("--features", help="NAME-classifier or inception-v3-compat; default: the data's")
    p.add_argument("--weights", type=Path, help="file of Inception's weights (else downloaded)")
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
    p.add_argument("--weights", type=Path, help="file of Inception's weights (else downloaded)")
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
    p.add_argument("model", type=Path, help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--out", type=Path, required=True, help="a .safetensors file, 2 MB at most")
    p.add_argument("--title", help="what the explorer's chooser shows")
    p.add_argument("--no-encoder", action="store_true", help="leave the inference network out")
    p.set_defaults(run=run_export)

    p = commands.add_parser("publish", help="copy an evaluated run into data/, to be committed")
    p.add_argument("folder", type=Path, help="a run's folder")
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

    device, images = device_of(args), data.load(source)
    config = configure(images.name, images.shape)
    folder = args.out or runs.folder_of(config, args.seed, args.budget)
    options = ("seed", "budget", "resume", "precision", "save_every")
    result = runs.train_run(
        *(config, images, folder),
        device=device,
        progress=not args.quiet,
        **{k: getattr(args, k) for k in options},
    )
    print(f"{result['steps']} steps in {result['seconds']:.0f} s; the run lies in {folder}")


def run_sample(args: argparse.Namespace) -> None:
    from . import runs, systems

    system = systems.load(runs.model_stem(args.model)).to(device_of(args))
    runs.save_samples(system, args.out, args.n, steps=args.steps, seed=args.seed)
    print(f"{args.n} samples in {args.out}")


def run_evaluate(args: argparse.Namespace) -> None:
    from . import data, runs, systems

    stem, device = runs.model_stem(args.model), device_of(args)
    own = systems.load(stem).config.data
    if args.data and data.load(args.data, "test", limit=1).name != own:
        raise UsageError(f"{stem} was trained on {own}, not on {args.data}.")
    splits = [data.load(args.data or own, split) for split in SPLITS]
    options = {k: getattr(args, k) for k in ("samples", "features", "weights", "seed")}
    for r in runs.evaluate_run(stem, *splits, device=device, **options):
        rest = ", ".join(f"{k} {v}" for k, v in r.items() if k not in ("name", "value"))
        print(f"{r['name']:28} {r['value']:10.4f}   {rest}")
    file = stem.with_name("results.json")
    if file.is_file():
        print(f"recorded in {file}")


def run_table(args: argparse.Namespace) -> None:
    for name in args.systems:
        rows.row(name)
    if args.budget == "paper":
        presets.paper(args.systems[0], args.data)  # is it a data set of the papers?
    from . import data, table

    known = args.data in SHAPES
    images = None if known else data.load(args.data, limit=1)
    name, shape = (args.data, SHAPES[args.data]) if known else (images.name, images.shape)
    which = {"rows": args.systems, "seeds": args.seeds}
    todo, device = table.jobs(name, shape, args.budget, **which), device_of(args)
    if args.dry_run:
        for line in table.plan(todo, args.budget, device):
            print(line, flush=True)
        return
    paper = args.budget == "paper"
    features = args.features or ("inception-v3-compat" if paper else None)
    samples = args.samples or (50_000 if paper else 10_000)
    measure = {"samples": samples, "features": features, "weights": args.weights}
    failed = []
    if not args.show and any(job.state != "done" for job in todo):
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
    from . import runs, systems
    from .explorer import export

    system = systems.load(runs.model_stem(args.model))
    encoder = not args.no_encoder and system.inference.amortised
    done = export(system, args.out, title=args.title, encoder=encoder)
    parts = " and ".join(p for p in ("generator", "encoder") if done.description[p])
    print(f"{parts} of {done.description['title']}, {args.out.stat().st_size:,} bytes: {args.out}")


def run_publish(args: argparse.Namespace) -> None:
    """Copy a run's weights, codes and results to data/checkpoints and data/results."""
    from . import runs

    print(f"published {runs.publish(args.folder, weights=not args.results_only)}")


def run_classifier(args: argparse.Namespace) -> None:
    from . import data
    from .evaluate import classifier

    train_set, test_set = (data.load(args.data, split) for split in SPLITS)
    epochs = args.epochs or classifier.recipe(train_set.name).epochs
    how = {"seed": args.seed, "epochs": epochs}
    model, accuracy = classifier.fit_classifier(train_set, test_set, **how)
    classifier.save_classifier(model, train_set.name, accuracy=accuracy, **how)
    name, file = title(train_set.name), classifier.stem(train_set.name)
    print(f"{name}: test accuracy {accuracy:.4f}; saved at {file}")


def run_features(args: argparse.Namespace) -> None:
    from . import data
    from .evaluate import features

    train_set, test_set = (data.load(args.data, split) for split in SPLITS)
    stem = features.save_reference(train_set.name, train_set.images, test_set.images)
    print(f"{title(train_set.name)}: features saved at {stem}")


if __name__ == "__main__":
    sys.exit(main())
