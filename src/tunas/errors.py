"""The one exception that means "the input is wrong, not the program"."""


class InputError(ValueError):
    """Bad input from the user: one sentence saying what was wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2; from Python it is an ordinary `ValueError`.
    """


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite. The command line prints the sentence and exits with code 1."""
