"""Where a label comes from, in a record that both the teachers and the label store know."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

__all__ = ["QUANTITY", "Provenance", "Source"]

QUANTITY = "relative inverse depth"


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher as it is written into every store and shard.

    Attributes:
        kind: "hf", "onnx", "demo", or a plug-in's name.
        name: the hub's name, a folder's or a card's name, never a machine's path.
        weights_sha256: of the weight files' bytes.
        quantity: what a label is.
        direction: what the raw output is before it becomes inverse depth, "inverse depth" or "depth".
        preprocessing: colour order, input range, mean, std, size rule, interpolation.
        versions: library -> version.
        confidence: that comes with each map, in words with its formula; empty where none does.
        sources: of labels that were fused from several stores.
    """

    kind: str
    name: str
    weights_sha256: str
    quantity: str = QUANTITY
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
