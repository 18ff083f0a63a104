"""The one exception that means "the user can mend this"."""

from __future__ import annotations

__all__ = ["SoftfocusError"]


class SoftfocusError(Exception):
    """Bad input: one line that names the file and the mend.

    The library raises it (or a subclass that lives where it is raised); the command line prints it
    on stderr without a traceback and exits with 1.
    """
