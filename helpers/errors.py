"""The one exception that means "the reader can fix this"."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one sentence.

    The sentence says what was wrong, what is accepted and the nearest valid
    choice; the command line prints it alone and exits with status 2.
    """


def unknown(kind: str, name: object, accepted: Iterable[object]) -> InputError:
    """The error for a name that is not among the accepted ones.

    >>> str(unknown("profile", "labtop", ["laptop", "smoke"]))
    "unknown profile 'labtop'; did you mean 'laptop'? Accepted: laptop, smoke"
    """
    choices = [str(choice) for choice in accepted]
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}? " if near else ". "
    listed = ", ".join(choices) or "none"
    return InputError(f"unknown {kind} {str(name)!r}{hint}Accepted: {listed}")
