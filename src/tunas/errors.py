"""The exceptions that mean "the input is wrong, not the program"."""


class InputError(ValueError):
    """Bad input from the user: one sentence saying what was wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2; from Python it is an ordinary `ValueError`.

    Attributes:
        told: whether another process of the job says it already.
    """

    told = False


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite. The command line prints the sentence and exits with code 1."""

    told = False
