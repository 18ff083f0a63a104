"""Cards: what a weight file does not say about itself.

A card is a small YAML file. `cards/` holds those of known networks; a user writes one for any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.teachers.base import Direction, TeacherError
from pipeline.teachers.preprocessing import Colour, PositiveTriple, Range, SizeRule, Triple

__all__ = ["CARD_FIELDS", "Card", "card_for_sha256", "find_card", "known_cards"]

CARD_FIELDS = (
    "direction: inverse depth | depth, range: 0..1 | 0..255, mean: [r, g, b], std: [r, g, b], "
    "colour: RGB | BGR, size: {rule: short side, side: 384, multiple: 32}"
)

_FOLDER = Path(__file__).with_name("cards")

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network's facts. Only `direction` is always needed; a teacher says which others it misses.

    name: how provenance calls the network. direction: of the raw output, "inverse depth" (large = near)
    or "depth" (large = far). range: of the pixels before mean and std, which are in the same units and in
    the order of `colour`. size: the rule that gives the input size. output: the output's name where a
    network has several. licence, source, note: for people. sha256: weight files that this card is for.
    """

    direction: Direction
    name: str | None = None
    range: Range | None = None
    mean: Triple | None = None
    std: PositiveTriple | None = None
    colour: Colour | None = None
    size: SizeRule | None = None
    output: str | None = None
    licence: str | None = None
    source: str | None = None
    note: str | None = None
    sha256: tuple[Sha256, ...] = ()


def known_cards() -> list[str]:
    """Names of the cards that come with softfocus."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_card(card: str) -> Card:
    """The known card of that name, or the card in that YAML file.

    Raises:
        TeacherError: neither, or a file that is not a card; the line names the field.
    """
    if card in known_cards():
        return _read(_FOLDER / f"{card}.yaml")
    path = Path(card)
    if not path.is_file():
        raise TeacherError(f"{card}: neither a card file nor a known card; known cards: {', '.join(known_cards())}")
    return _read(path)


def card_for_sha256(sha256: str) -> Card | None:
    """The known card for a weight file's hash, or None."""
    return next((card for card in map(find_card, known_cards()) if sha256 in card.sha256), None)


def _read(path: Path) -> Card:
    try:
        card = msgspec.yaml.decode(path.read_bytes(), type=Card)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TeacherError(f"{path}: not a card ({reason}); a card has {CARD_FIELDS}") from error
    return card if card.name else msgspec.structs.replace(card, name=path.stem)
