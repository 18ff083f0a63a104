"""What can be wrong with a label store."""

from __future__ import annotations

from pipeline.errors import SoftfocusError

__all__ = ["MEND_PLAN", "MEND_SHARD", "DamagedShard", "MissingLabel", "StoreError"]

MEND_SHARD = (
    "`softfocus verify STORE --repair` sets it aside; or remove it and run `softfocus label` again, which makes just "
    "this shard anew"
)
MEND_PLAN = "`softfocus verify STORE --repair` with --manifest and --teacher draws it up again"


class StoreError(SoftfocusError):
    """A label store that cannot be used, or not for this; the message names the file and the mend."""


class DamagedShard(StoreError):
    """A file of the store whose bytes are not those that were written."""


class MissingLabel(StoreError, KeyError):
    """A sample without a label in this store."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message in quotes
