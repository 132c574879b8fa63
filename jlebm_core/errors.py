"""The exceptions that a user of the command line sees as a sentence instead of a traceback."""


class UsageError(ValueError):
    """Wrong use: an unknown name, data that do not fit, a file that cannot be read.

    The message is one clear sentence that says what was given, what was expected, and what to do.
    ``jlebm`` prints it and exits with code 2.
    """


class Diverged(RuntimeError):
    """Training left every reasonable range; the message says which quantity did, and when.

    ``metric`` says so as a record for a results file; ``result`` is what there is of that file's
    content, if a run ended so. Both are None for a summary of several runs.
    """

    metric: dict | None = None
    result: dict | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a training run; the message says what of it is kept, and ``resumable`` whether a
    later call can go on from there."""

    resumable = False
