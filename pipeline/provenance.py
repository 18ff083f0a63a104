"""Where a label comes from, in a record that both the teachers and the label store know."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

__all__ = ["BLUR_PROBABILITY", "INVERSE_DEPTH", "QUANTITIES", "Provenance", "Source", "meaning_of"]

INVERSE_DEPTH = "relative inverse depth"
BLUR_PROBABILITY = "blur probability"

QUANTITIES = {"depth": INVERSE_DEPTH, "blur": BLUR_PROBABILITY}
"""What a teacher may be asked for, by the command line's words."""

_MEANINGS = {
    INVERSE_DEPTH: "large = near; known up to a scale and a shift for each map",
    BLUR_PROBABILITY: "1 = out of focus; from 0 to 1, the same for all maps",
}


def meaning_of(quantity: str) -> str:
    """Which way a quantity grows, and what may be compared between maps."""
    return _MEANINGS.get(quantity, "see the teacher's direction")


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher as it is written into every store and shard.

    Attributes:
        kind: "hf", "onnx", "demo", or a plug-in's name.
        name: the hub's name, a folder's or a card's name, never a machine's path.
        weights_sha256: of the weight files' bytes.
        quantity: what a label is: one of QUANTITIES, or a plug-in's own.
        direction: what the raw output is before it becomes the quantity: "inverse depth", "depth" or
            "1 = out of focus".
        preprocessing: colour order, input range, mean, std, size rule, interpolation.
        versions: library -> version.
        confidence: that comes with each map, in words with its formula; empty where none does.
        sources: of labels that were fused from several stores.
    """

    kind: str
    name: str
    weights_sha256: str
    quantity: str = INVERSE_DEPTH
    direction: str
    preprocessing: dict[str, Any]
    versions: dict[str, str]
    confidence: str = ""
    sources: tuple[Source, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over everything but the versions: the same labels, the same fingerprint."""
        facts = {name: getattr(self, name) for name in self.__struct_fields__ if name != "versions"}
        facts["sources"] = [source.fingerprint for source in self.sources]
        return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A store that fused labels were made from.

    Attributes:
        fingerprint: of the store.
        provenance: of its labels.
    """

    fingerprint: str
    provenance: Provenance
