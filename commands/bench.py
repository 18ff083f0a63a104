"""`softfocus bench NAME`: measurements as ratios within one run, of which README and docs show the results."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure speed and size on this machine.

    \b
    Example:
      softfocus bench plan
    """
