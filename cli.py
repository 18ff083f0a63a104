"""The command line: `commands/` has a module a stage; here are the group and what an error becomes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from commands import audit, bench, data, labels, runs, training
from commands.console import PATH, SEED
from pipeline.errors import SoftfocusError


class Group(click.Group):
    """Turns the library's exceptions into one line and an exit code; lists commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        try:
            sys.exit(run(*args, standalone_mode=False, **kwargs))
        except SoftfocusError as error:
            _fail(str(error), 1)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; the same command goes on where it stopped", 130)
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            _fail("out of memory; use fewer workers or smaller batches", 1)
        except OSError as error:
            _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="softfocus")
def main() -> None:
    """See which pixels of a photograph are out of focus.

    A depth teacher labels the photographs once (index, label); a small student learns blur masks and
    depth from what was stored (train, evaluate, predict). `softfocus demo` shows all of it.
    """


for command in (
    data.index,
    labels.label,
    labels.fuse,
    audit.status,
    audit.verify,
    data.synth,
    data.refocus,
    training.train,
    training.evaluate,
    training.predict,
    training.average,
    training.import_weights,
    runs.runs,
    runs.sweep,
    bench.bench,
):
    main.add_command(command)


@main.command()
@click.option("-o", "--out", default="demo", show_default=True, type=PATH)
@click.option("--scenes", type=click.IntRange(min=20), default=160, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
def demo(out: Path, scenes: int, epochs: int, seed: int) -> None:
    """Everything once, offline, in a few minutes: scenes, labels, a student, its figures, one page."""
    from trainer.demo import show_run

    def at(path: str) -> str:
        return shlex.quote(str(out / path))

    commands = [
        f"synth {at('scenes')} --count {scenes} --size 256 384 --seed {seed}",
        f"index synth {at('scenes')} -o {at('scenes.jsonl')}",
        f"label {at('scenes.jsonl')} {at('labels')} --teacher demo",
        f"train {at('scenes.jsonl')} --labels {at('labels')} -o {at('run')} --epochs {epochs}"
        f" --encoder-weights shipped --seed {seed} --batch-size 16"
        " --set student.encoder=tf_efficientnet_lite0 --set student.channels=64"
        " --set data.input_size=192 --set data.prepared_size=224 --set validate_every=3",
        f"evaluate {at('scenes.jsonl')} --model {at('run')} --split test --labels {at('labels')}",
        f"predict {at('scenes/image')} -o {at('maps')} --model {at('run')}",
    ]
    for command in commands:
        click.echo(f"$ softfocus {command}")
        code = main.main(args=shlex.split(command), prog_name="softfocus", standalone_mode=False)
        if code:
            raise SoftfocusError(f"demo: `softfocus {command}` ended with {code}")
    manifest, labels, run = out / "scenes.jsonl", out / "labels", out / "run"
    page = show_run(manifest, labels=labels, run=run, commands=commands, out=out / "index.html")
    click.echo(f"{page}: open it in a browser")


def _is_lack_of_memory(error: Exception) -> bool:
    """Also torch's: a kind of its own on a GPU, words alone on the CPU."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _fail(line: str, code: int) -> None:
    click.echo(f"softfocus: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
