"""``jlebm``: train, sample, evaluate, export and publish from the command line.

Exit codes: 0 done, 1 training diverged, 2 wrong use (one sentence on standard error).
"""

import argparse
import ast
import sys
from pathlib import Path

import torch

from . import checkpoints, data, monitor, paths, results, systems, train, viz
from .configs import BUDGETS, PRESETS, Config
from .errors import UsageError
from .explorer import export


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except UsageError as error:
        print(f"jlebm: {error}", file=sys.stderr)
        return 2
    except monitor.Diverged as error:
        print(f"jlebm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jlebm: interrupted; --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="jlebm", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("train", help="train a system on a data set")
    p.add_argument("system", nargs="?", help=f"one of {', '.join(systems.SYSTEMS)}")
    p.add_argument("--data", help=f"{', '.join(data.NAMES)}, a folder of images, or an .npz file")
    p.add_argument("--preset", help=f"published settings: {', '.join(PRESETS)}")
    p.add_argument("--budget", choices=BUDGETS, default="cpu", help="how long (default: cpu)")
    p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="folder of the run")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--save-every", type=positive, default=1000, metavar="STEPS")
    p.add_argument("--precision", choices=train.PRECISIONS, default="bf16")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    device_option(p)
    p.set_defaults(run=run_train)

    p = commands.add_parser("sample", help="draw images from a trained system")
    p.add_argument("model", type=Path, help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--n", type=positive, default=64)
    p.add_argument("--steps", type=natural, help="Langevin steps (default: as trained)")
    p.add_argument("--out", type=Path, default=Path("samples.png"))
    p.add_argument("--seed", type=int, default=0)
    device_option(p)
    p.set_defaults(run=run_sample)

    p = commands.add_parser("evaluate", help="measure a trained system and record the figures")
    p.add_argument("model", type=Path, help="a run's folder, or a shipped name")
    p.add_argument("--data", help="default: the data it was trained on")
    p.add_argument("--samples", type=positive, default=10_000, help="default: 10000")
    p.add_argument("--features", help="NAME-classifier or inception-v3-compat; default: the data's")
    p.add_argument("--weights", type=Path, help="file of Inception's weights (else downloaded)")
    p.add_argument("--seed", type=int, default=0)
    device_option(p)
    p.set_defaults(run=run_evaluate)

    p = commands.add_parser("export", help="write a trained system for the latent explorer")
    p.add_argument("model", type=Path, help="a run's folder, a checkpoint, or a shipped name")
    p.add_argument("--out", type=Path, required=True, help="a .safetensors file, 2 MB at most")
    p.add_argument("--title", help="what the explorer's chooser shows")
    p.add_argument("--no-encoder", action="store_true", help="leave the inference network out")
    p.set_defaults(run=run_export)

    p = commands.add_parser("publish", help="copy an evaluated run into data/, to be committed")
    p.add_argument("folder", type=Path, help="a run's folder")
    p.set_defaults(run=run_publish)

    p = commands.add_parser("classifier", help="train the feature classifier of a data set")
    p.add_argument("--data", required=True)
    p.add_argument("--epochs", type=positive, help="default: those of the recipe of the data")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=run_classifier)
    return top


def device_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def overrides(pairs: list[str]) -> dict:
    """``["steps=100", "dims=(2,2)"]`` as settings; UsageError for what is no NAME=VALUE."""
    settings = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise UsageError(f"--set takes NAME=VALUE, not {pair!r}.")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings


def device_of(args: argparse.Namespace) -> torch.device:
    try:
        return torch.empty(0, device=args.device).device
    except (RuntimeError, AssertionError):
        raise UsageError(f"there is no device {args.device!r} on this machine.") from None


def configuration(args: argparse.Namespace) -> tuple[Config, data.ImageSet]:
    """Settings and training images that the arguments ask for, checked against each other."""
    changes = {**BUDGETS[args.budget], **overrides(args.set)}
    if args.preset:
        if args.system:
            raise UsageError("--preset already names a system: give no other.")
        images = data.load(args.data or systems.preset(args.preset).data)
        return systems.preset(args.preset, **{"data": images.name, **changes}), images
    if not args.system or not args.data:
        raise UsageError("give a system and --data, or a --preset.")
    systems.row(args.system)  # a wrong name shows before any data are read
    images = data.load(args.data)
    how = {"budget": args.budget, **overrides(args.set)}
    return systems.configure(args.system, images.name, images.shape, **how), images


def run_train(args: argparse.Namespace) -> None:
    config, images = configuration(args)
    device = device_of(args)
    name = results.run_name(config.system, config.data, args.seed)
    folder = args.out or paths.runs_dir() / name
    if not args.resume and checkpoints.exists(folder / "resume"):
        raise UsageError(f"{folder} already holds a run: give --resume, or another --out.")
    system = train.channels_last(systems.build(config, seed=args.seed)).to(device)
    trainer = train.Trainer(system, images.images, seed=args.seed, precision=args.precision)
    if args.resume:
        trainer.restore(folder / "resume")

    def on_log(trainer: train.Trainer) -> None:
        if trainer.step % args.save_every and trainer.step < trainer.total:
            return
        trainer.save(folder / "resume")
        picture = folder / f"samples-{trainer.step:06d}.png"
        save_samples(trainer.model(), picture, 64, seed=args.seed)

    counts = ", ".join(f"{k} {v:,}" for k, v in system.parameter_counts().items())
    title = data.title(config.data)
    print(f"{config.system} on {title}, {len(images):,} images {config.image}: {counts}")
    trainer.run(trainer.total, on_log=on_log, progress=not args.quiet)
    result = results.record(trainer, budget=args.budget, device=device_name(device))
    meta = {"data": config.data, "seed": args.seed, "steps": trainer.step}
    systems.save(trainer.model(), folder / "model", **meta)
    results.write(folder / "results.json", result)
    print(f"{trainer.step} steps in {result['seconds']:.0f} s; the run lies in {folder}")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def save_samples(
    system: systems.System, path: Path, n: int, *, steps: int | None = None, seed: int = 0
) -> None:
    """A grid of ``n`` samples as a PNG, written in one step."""
    rng = torch.Generator(next(system.parameters()).device).manual_seed(seed)
    system.eval()
    picture = viz.png(system.sample(n, steps=steps, rng=rng), max(1, round(n**0.5)))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomic(path, picture)


def model_stem(model: Path) -> Path:
    """The checkpoint that ``model`` means: a run's folder, a stem, or a shipped name."""
    candidates = (model / "model", model, paths.shipped("checkpoints", str(model)))
    for stem in candidates:
        if checkpoints.exists(stem):
            return stem
    raise UsageError(
        f"no trained system at {model}: give the folder of a run, a checkpoint, or a shipped one "
        f"({', '.join(systems.shipped_names())})."
    )


def run_sample(args: argparse.Namespace) -> None:
    system = systems.load(model_stem(args.model)).to(device_of(args))
    save_samples(system, args.out, args.n, steps=args.steps, seed=args.seed)
    print(f"{args.n} samples in {args.out}")


def run_evaluate(args: argparse.Namespace) -> None:
    from .evaluate.report import encode_all, evaluate

    stem = model_stem(args.model)
    system = systems.load(stem).to(device_of(args))
    own = system.config.data
    if args.data and data.load(args.data, "test", limit=1).name != own:
        raise UsageError(f"{stem} was trained on {own}, not on {args.data}.")
    splits = [data.load(args.data or own, split) for split in data.SPLITS]
    options = {k: getattr(args, k) for k in ("samples", "features", "weights", "seed")}
    records = evaluate(system, *splits, **options)
    for r in records:
        rest = ", ".join(f"{k} {v}" for k, v in r.items() if k not in ("name", "value"))
        print(f"{r['name']:28} {r['value']:10.4f}   {rest}")
    file = stem.with_name("results.json")
    if not file.is_file():  # a shipped model: nothing to record in
        return
    results.write(file, results.with_metrics(results.read(file), records))
    test = splits[1]
    if test.labels is not None and system.inference.amortised:
        codes = {"z": encode_all(system, test.images).half(), "labels": test.labels.byte()}
        checkpoints.save(stem.with_name("codes"), codes, {"split": "test", "data": test.name})
    print(f"recorded in {file}")


def run_export(args: argparse.Namespace) -> None:
    system = systems.load(model_stem(args.model))
    encoder = not args.no_encoder and system.inference.amortised
    done = export(system, args.out, title=args.title, encoder=encoder)
    parts = " and ".join(p for p in ("generator", "encoder") if done.description[p])
    print(f"{parts} of {done.description['title']}, {args.out.stat().st_size:,} bytes: {args.out}")


def run_publish(args: argparse.Namespace) -> None:
    """Copy a run's weights, codes and results to data/checkpoints and data/results."""
    if paths.CLONE is None:
        raise UsageError("publish writes into data/ of a clone of the project: run it there.")
    result = results.read(args.folder / "results.json")
    if not result["metrics"]:
        raise UsageError(f"{args.folder} has not been evaluated: run `jlebm evaluate` on it first.")
    name = results.run_name(result["system"], result["data"], result["seed"])
    parts = {"model": name, "codes": f"codes-{name}"}
    for part, shipped in parts.items():
        if part == "model" or checkpoints.exists(args.folder / part):
            tensors, meta = checkpoints.load(args.folder / part)
            checkpoints.save(paths.shipped("checkpoints", shipped), tensors, meta)
    results.write(results.shipped_path(name), result)
    print(f"published {name}")


def run_classifier(args: argparse.Namespace) -> None:
    from .evaluate import classifier

    train_set, test_set = (data.load(args.data, split) for split in data.SPLITS)
    epochs = args.epochs or classifier.recipe(train_set.name).epochs
    how = {"seed": args.seed, "epochs": epochs}
    model, accuracy = classifier.fit_classifier(train_set, test_set, **how)
    classifier.save_classifier(model, train_set.name, accuracy=accuracy, **how)
    name, file = data.title(train_set.name), classifier.stem(train_set.name)
    print(f"{name}: test accuracy {accuracy:.4f}; saved at {file}")


if __name__ == "__main__":
    sys.exit(main())
