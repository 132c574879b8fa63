"""How the wait for data is shown: a bar on a terminal, else one line."""

import sys

from tqdm import tqdm


def bar(said: str, **options) -> tqdm:
    """A progress bar named ``said`` with the ``options`` of tqdm, if someone sees it move.

    Where standard error is no terminal (a notebook, a log), one line says what is done instead: a
    bar would stay on the page, and fill the log. In a notebook it is no warning, and so an output.
    """
    seen = sys.stderr.isatty()
    if not seen:
        print(f"{said} ...", file=sys.stdout if "ipykernel" in sys.modules else sys.stderr)
    return tqdm(desc=said, disable=not seen, **options)
