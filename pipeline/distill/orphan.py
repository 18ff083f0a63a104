"""A helping process ends with the one that it helps, however that ends."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["ORPHAN_S", "end_without"]

ORPHAN_S = 0.5


def end_without(parent: int) -> None:
    """From now on this process ends soon after its parent did, whatever it is at."""
    threading.Thread(target=_watch, args=(parent,), name="softfocus-orphan", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(1)
