"""`make bench`: our chains and training steps beside those of their peers, timed in one run.

    python benchmarks/run.py [--quick] [--only WHAT ...] [--out FILE]

Every competitor lives in a process of its own, and they take turns: one measurement each, round
after round, so that whatever else the machine does meets all of them alike. The result is a list
of flat records with the median, the smallest and the largest time; ratios are made of medians.
What is measured again takes the place of its records in the file; those of another machine go.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = {"torchebm": "torchebm", "ebmkit": "ebmkit"}  # competitor -> package
CHAIN = {"batch": 100, "steps": 60, "hidden": [50, 50, 50, 50], "dim": 16}  # the authors' f
STEP = {"batch": 100, "steps": 60}  # of a training step, as the authors have it
BATCHES = (100, 1000, 10_000)
WARM_UP = {"cpu": 1, "cuda": 5}  # calls before the first timed one: some are recorded as graphs
# One measurement repeats a call until it has taken this long, and so often: the first call after
# another competitor's turn finds the caches full of that one's data.
MIN_SECONDS, MIN_CALLS = 0.1, 4


def cases(quick: bool, devices: list[str]) -> list[dict]:
    """Everything that is measured; a case is timed for all its competitors."""
    from jlebm_core.systems import SYSTEMS

    found = []
    for device in devices:
        threads = (1, 2) if device == "cpu" else (1,)
        found += [{"what": "matrix-product", "device": device, "threads": n} for n in threads]
        base = {"what": "prior-chain", "device": device, **CHAIN}
        for n in reversed(threads):
            found += [{**base, "threads": n, "batch": b} for b in BATCHES]
        one = {**base, "threads": 1, "batch": 1000}
        if device == "cpu":  # how time grows, one thing at a time
            found += [{**one, "steps": k} for k in (15, 30, 120, 240)]
            found += [{**one, "hidden": [50] * n} for n in (1, 2, 3)]
            found += [{**one, "hidden": [w] * 4} for w in (100, 200)]
        found += [{**one, "hidden": [100, 100], "dim": 50, "batch": b} for b in BATCHES]
        top = max(threads)
        step = {"what": "training-step", "device": device, "threads": top, **STEP}
        found.append(step)
        if device == "cpu":
            found += [{**step, "batch": b} for b in (25, 50, 200)]
            found += [{**step, "steps": k} for k in (15, 240)]
        lebm = {**step, "what": "lebm-step"}
        found += [lebm, *([{**lebm, "batch": 25}] if device == "cpu" else [])]
        images = {"what": "fid-images", "device": device, "threads": top}
        found += [{**images, "images": n} for n in (1000, 4000)]
        forms = {**base, "what": "chain-forms", "threads": top}
        found += [{**forms, "batch": b} for b in BATCHES]
        found += [{**forms, "hidden": [200, 200], "dim": 10, "batch": b} for b in BATCHES]
        each = {"what": "system-step", "device": device, "threads": top}
        found += [{**each, "system": name} for name in SYSTEMS]
        found.append({"what": "mnist-training", "device": device, "threads": top})
    if quick:  # every kind once, small
        small = {"batch": 10, "steps": 2}
        kinds = {c["what"]: c for c in reversed(found)}
        found = [{**c, **(small if "batch" in c else {}), "threads": 1} for c in kinds.values()]
    return found


def rounds(what: str, quick: bool) -> int:
    """How often each competitor is measured."""
    if quick:
        return 1
    return {"prior-chain": 9, "training-step": 9}.get(what, 3)


def worker(connection: Connection, threads: int) -> None:
    """Serve measurements of one competitor: (case) builds it, (count) times that many calls."""
    import torch

    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import competitors

    torch.set_num_threads(threads)
    call = synchronise = None
    while (message := connection.recv()) is not None:
        if isinstance(message, dict):
            call = competitors.COMPETITORS[message["what"]][message["who"]](message)
            cuda = message["device"] == "cuda"
            synchronise = torch.cuda.synchronize if cuda else lambda: None
            for _ in range(WARM_UP[message["device"]]):
                call()
            message = 1
        synchronise()
        start = time.perf_counter()
        for _ in range(message):
            call()
        synchronise()
        milliseconds = (time.perf_counter() - start) * 1e3 / message
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        connection.send((milliseconds, peak, getattr(call, "gflop", None)))


class Competitor:
    """A process that times one competitor, case after case of one kind."""

    def __init__(self, threads: int):
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, message: dict | int | None) -> tuple[float, float, float | None]:
        """Send a case to build, or a number of calls; milliseconds a call, peak MiB, Gflop."""
        self.connection.send(message)
        return self.connection.recv()

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def measure(kind: list[dict], quick: bool) -> list[dict]:
    """The records of cases of one kind (what, threads, device), for all competitors, in turn."""
    from competitors import COMPETITORS

    what, threads = kind[0]["what"], kind[0]["threads"]
    names = [n for n in COMPETITORS[what] if n not in PEERS or installed(PEERS[n])]
    variants = [{"who": n, **v} for n in names for v in precisions(what, n)]
    running = [Competitor(threads) for _ in variants]
    records = []
    for case in kind:
        counts, times = [], [[] for _ in variants]
        for competitor, variant in zip(running, variants, strict=True):
            first, *_ = competitor.ask({**case, **variant})  # warm after this
            counts.append(1 if quick else max(MIN_CALLS, round(MIN_SECONDS * 1e3 / first)))
        for _ in range(rounds(what, quick)):
            for i, competitor in enumerate(running):
                times[i].append(competitor.ask(counts[i]))
        for variant, measured in zip(variants, times, strict=True):
            ms, (_, peak, gflop) = [t for t, *_ in measured], measured[-1]
            records.append(
                {
                    **case,
                    **variant,
                    "ms_median": round(statistics.median(ms), 3),
                    "ms_min": round(min(ms), 3),
                    "ms_max": round(max(ms), 3),
                    "rounds": len(ms),
                    "peak_mib": round(peak),
                    **({"gflop": round(gflop, 4)} if gflop else {}),
                }
            )
            shown = ", ".join(f"{k} {v}" for k, v in {**case, **variant}.items() if k != "what")
            print(f"{what:14} {records[-1]['ms_median']:10.2f} ms   {shown}", flush=True)
    for competitor in running:
        competitor.close()
    return records


def precisions(what: str, who: str) -> list[dict]:
    """Ours is timed in both precisions where there are two."""
    if what in ("prior-chain", "chain-forms"):
        return [{}]
    if what == "matrix-product":
        return [{"precision": "bf16"}, {"precision": "float32"}]
    if what == "system-step" or who == "floor":
        return [{"precision": "bf16"}]
    if what == "fid-images" or who != "ours":
        return [{"precision": "float32"}]
    return [{"precision": "bf16"}, {"precision": "float32"}]


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(device: str) -> dict:
    """What the times on a device were taken on."""
    import torch

    packages = ("torch", "triton", "torchebm", "ebmkit", "torch-fidelity", "jlebm-core")
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        facts = {k.strip(): v.strip() for k, v in facts.items()}
        cpu = facts.get("model name", cpu)
        flags = facts.get("flags", "").split()
        cpu += f" ({', '.join(f for f in ('avx512f', 'avx512_bf16', 'amx_bf16') if f in flags)})"
    name = torch.cuda.get_device_name() if device == "cuda" else cpu
    versions = {p: installed(p) for p in packages}
    return {"what": "machine", "device": device, "name": name, "cpu": cpu, "versions": versions}


def merged(old: list[dict], where: dict, new: list[dict]) -> list[dict]:
    """``old`` with ``new`` records, all of one kind, made on the machine ``where``."""

    def kind(r: dict) -> tuple:
        return r["what"], r["device"], r.get("threads")

    device, kinds = where["device"], {kind(r) for r in new}
    others = [r for r in old if r["device"] != device]
    same = [r for r in old if r["device"] == device and r != where and where in old]
    return [*others, where, *(r for r in same if kind(r) not in kinds), *new]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each kind once, to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="e.g. prior-chain")
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), help="default: all here")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import torch

    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    devices = args.devices or here
    if not set(devices) <= set(here):
        parser.error("there is no CUDA device here")
    todo = [c for c in cases(args.quick, devices) if c["what"] in (args.only or (c["what"],))]
    if not todo:
        parser.error(f"nothing is called {' or '.join(args.only)}")
    count = 0
    for (*_, device), kind in groupby(todo, key=lambda c: (c["what"], c["threads"], c["device"])):
        new = measure(list(kind), args.quick)
        old = json.loads(args.out.read_text()) if args.out.is_file() else []
        lines = ",\n".join(json.dumps(r) for r in merged(old, machine(device), new))
        args.out.write_text(f"[\n{lines}\n]\n")
        count += len(new)
    print(f"{count} new records in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
