"""The one exception that a user of the command line sees as a sentence instead of a traceback."""


class UsageError(ValueError):
    """Wrong use: an unknown name, data that do not fit, a file that cannot be read.

    The message is one clear sentence that says what was given, what was expected, and what to do.
    ``jlebm`` prints it and exits with code 2.
    """
