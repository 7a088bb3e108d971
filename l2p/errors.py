"""The error of bad input."""


class InputError(ValueError):
    """What was given is wrong, and the sentence says what was given, what is allowed and what to do next.

    All commands end with status 2 on it (`l2p.ending`); a plain ValueError, which only a library or a slip of ours
    raises, ends them with status 4.
    """
