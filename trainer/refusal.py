"""Why a configuration is refused, in words: the key, the value, and what it takes."""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["explain"]

_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list"}
_WORDS |= {"object": "keys and values"}


def explain(error: msgspec.ValidationError, tree: Any, kind: type) -> str:
    """msgspec's refusal of a tree, with our dotted keys, the value, and the choices where there are some.

    Args:
        error: what converting `tree` to `kind` raised.
        tree: plain dicts and lists.
        kind: the struct that it was to become.
    """
    message, _, where = str(error).partition(" - at `$")
    path = re.findall(r"[^.\[\]`]+", where)
    key = where.rstrip("`").removeprefix(".")
    info = _at(inspect.type_info(kind), path)
    if unknown := re.search(r"unknown field `(.*)`", message):
        known = [field.name for field in info.fields] if isinstance(info, inspect.StructType) else []
        name, close = unknown[1], difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of: {', '.join(known)}"
        return f"{key + '.' if key else ''}{name}: no such key; {hint}"
    if not key:
        return message
    if choices := _choices(info):
        takes = f"choose {', '.join(choices[:-1])} or {choices[-1]}"
    else:
        expected = message.removeprefix("Expected ").partition(", got")[0]
        takes = "it must be " + re.sub(r"`(\w+)`", lambda found: _WORDS.get(found[1], found[1]), expected)
    return f"{key} is {_value(tree, path)}; {takes}"


def _at(info: inspect.Type, path: list[str]) -> inspect.Type:
    """The type at a path; where the path leaves what is known, the last that is."""
    for part in path:
        info = _plain(info)
        if isinstance(info, inspect.StructType):
            info = next((field.type for field in info.fields if field.name == part), info)
        elif isinstance(info, inspect.VarTupleType):
            info = info.item_type
        elif isinstance(info, inspect.TupleType):
            info = info.item_types[int(part)]
    return _plain(info)


def _plain(info: inspect.Type) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _choices(info: inspect.Type) -> list[str]:
    return sorted(map(str, info.values)) if isinstance(info, inspect.LiteralType) else []


def _value(tree: Any, path: list[str]) -> str:
    for part in path:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return str(tree) if isinstance(tree, int | float) else repr(tree)
