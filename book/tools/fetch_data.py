"""Fetch the real images that chapters show, so that no chapter downloads anything itself.

    python book/tools/fetch_data.py test        # or: train test

Never fails: what cannot be had is said in one sentence, after seconds.
"""

import argparse
from collections.abc import Sequence

from jlebm_core import data
from jlebm_core.data import download
from jlebm_core.errors import UsageError

SHOWN = ("mnist", "fashion-mnist")
PATIENCE = 5.0  # seconds without an answer


def missing(splits: Sequence[str]) -> list[str]:
    """The titles of those sets of SHOWN that are neither at hand nor to be downloaded."""
    download.TIMEOUT, titles = PATIENCE, []
    for name in SHOWN:
        try:
            for split in splits:
                data.load(name, split, limit=1)
        except UsageError:  # its sentence names folders of this machine
            titles.append(data.title(name))
    return titles


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("splits", nargs="+", choices=data.SPLITS)
    if titles := missing(parser.parse_args().splits):
        print(f"{' and '.join(titles)} cannot be had: the chapters show what is shipped.")


if __name__ == "__main__":
    main()
