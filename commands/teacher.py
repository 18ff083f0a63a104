"""The options that name a teacher, and what comes of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from commands.console import device_option

_OPTIONS = (
    click.option(
        "--card",
        help="How an ONNX teacher wants its input: a YAML file, or a known card's name. [default: by the file's hash]",
    ),
    click.option(
        "--size", type=click.IntRange(min=32, max=8192), help="The teacher's input size, in its own size rule."
    ),
    click.option(
        "--quantity",
        type=click.Choice(["depth", "blur"]),
        help="What is stored; blur: a student's probability of blur. [default: the store's, of a new one depth]",
    ),
    click.option(
        "--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
    ),
)


def teacher_options(*, required: bool, device: bool) -> Callable[[Any], Any]:
    """`--teacher` and the options that go with it; `--device` only where no other option of the command has it."""

    def decorate(command: Any) -> Any:
        for option in reversed((*_OPTIONS, device_option) if device else _OPTIONS):
            command = option(command)
        what = "hf:NAME_OR_FOLDER, onnx:FILE, demo, student:RUN, or a plug-in's."
        return click.option("--teacher", required=required, help=what)(command)

    return decorate


def take_teacher(options: dict[str, Any], store: Path) -> tuple[Callable[[], Any] | None, str]:
    """Take the teacher's options out of a command's; how to load it (None if not given), and how it was asked for.

    An existing store decides the quantity where none is asked for.
    """
    spec, quantity = options.pop("teacher"), options.pop("quantity") or _quantity_of(store)
    how = {key: options.pop(key) for key in ("device", "card", "size", "precision")}
    if quantity != "depth":
        how["quantity"] = quantity
    asked = " ".join([str(spec), *(f"{key}={value}" for key, value in how.items() if value and key != "device")])
    return functools.partial(load_any_teacher, spec, **how) if spec else None, asked


def _quantity_of(store: Path) -> str:
    from pipeline.provenance import QUANTITIES
    from pipeline.store import StoreError, has_description, read_description

    if has_description(store):
        with contextlib.suppress(StoreError):  # whoever works with the store will say it
            made = read_description(store).quantity
            return next((word for word, quantity in QUANTITIES.items() if quantity == made), "depth")
    return "depth"


def with_confidence(load: Callable[..., Any], store: Path, wanted: str | None) -> tuple[Callable[..., Any], str]:
    """The teacher as a store's labels are made: asked once, or for the mirror image too; and what was asked for.

    An existing store decides where nothing is asked for.
    """
    from pipeline.store import StoreError, has_description, read_description
    from pipeline.teachers.flip import load_flip

    if wanted is None and has_description(store):
        with contextlib.suppress(StoreError):  # whoever works with the store will say it
            wanted = read_description(store).provenance.confidence.partition(":")[0]
    if wanted == "flip":
        return functools.partial(load_flip, load), " confidence=flip"
    return load, ""


def load_any_teacher(spec: str, **how: Any) -> Any:
    """`load_teacher` for our own students too; a worker process imports it from here."""
    from pipeline.teachers import load_teacher, register_kind

    register_kind("demo", "trainer.teach:load_demo")
    register_kind("student", "trainer.teach:load_student_teacher")
    return load_teacher(spec, **how)
