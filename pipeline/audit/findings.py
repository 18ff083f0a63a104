"""What a check of a label store can find."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["DAMAGE", "DOUBT", "Finding", "Kind"]

Kind = Literal[
    "damaged",
    "surplus",
    "wrong id",
    "differs",
    "missing",
    "left over",
    "left out",
    "changed photograph",
    "non-finite",
    "constant",
    "saturated",
]

DAMAGE: dict[Kind, str] = {
    "damaged": "a file whose bytes are not those that were written, or that contradicts itself",
    "surplus": "a file that softfocus did not write there, or that belongs to another store or place",
    "wrong id": "a row of a shard that holds another sample or photograph than the plan puts there",
    "differs": "a label that is not what the teacher says today",
}
"""Kinds that mean the store cannot be trusted as it is: `verify` ends with 1."""

DOUBT: dict[Kind, str] = {
    "missing": "a planned shard that is not there, or a sample of the manifest that is not planned",
    "left over": "a temporary file of a killed run",
    "left out": "a photograph with a reason in place of a label",
    "changed photograph": "a label made from another photograph than the manifest names",
    "non-finite": "a map with pixels whose value is not known",
    "constant": "a map that says the same everywhere",
    "saturated": "a map in which one end of the range covers a large part",
}
"""Kinds that mean something is not there, or worth a look: `verify` ends with 3."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found, of one file.

    Attributes:
        kind: of DAMAGE or DOUBT.
        file: relative to the store; the manifest's path for what only it knows.
        what: one line.
        samples: ids concerned, if any.
    """

    kind: Kind
    file: str
    what: str
    samples: list[str] = []

    @property
    def is_damage(self) -> bool:
        """Whether it is more than a doubt."""
        return self.kind in DAMAGE

    def __str__(self) -> str:
        named = ", ".join(self.samples[:3]) + (f" and {len(self.samples) - 3} more" if len(self.samples) > 3 else "")
        return f"{self.kind}: {self.file}: {self.what}" + (f" ({named})" if named else "")
