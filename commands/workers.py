"""Options of `softfocus label` that say who does the work, and what they mean."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from commands.console import list_devices

TeamFactory = Callable[[Path, Callable[..., Any], dict[str, Any]], Any]
"""From the store, how to load the teacher, and what the workers are told: batch size, compile, threads."""


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets `part` and, in place of the rest, `devices` and `make_team`."""

    @click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:N; several with commas, a process each; all: every CUDA device.",
    )
    @click.option(
        "--processes",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Worker processes a device; the threads are shared out among them.",
    )
    @click.option(
        "--backend",
        type=click.Choice(["loky", "dask", "ray"]),
        default="loky",
        show_default=True,
        help="loky: processes of this machine. dask, ray: the workers of a cluster.",
    )
    @click.option("--address", help="Of the dask scheduler or the ray cluster. [default for ray: auto]")
    @click.option(
        "--part", metavar="I/N", help="Only the I-th of N shares, for N jobs that know nothing of each other."
    )
    @functools.wraps(command)
    def with_team(
        *args: Any,
        device: str,
        processes: int,
        backend: str,
        address: str | None,
        part: str | None,
        **options: Any,
    ) -> Any:
        if backend == "loky" and address:
            raise click.UsageError("--address is of a cluster; add --backend dask or --backend ray")
        if backend != "loky" and (processes > 1 or "," in device or device == "all"):
            raise click.UsageError(f"{backend} workers have their devices; leave out --processes and lists")
        if backend == "dask" and not address:
            raise click.UsageError("--backend dask needs --address, as `dask scheduler` prints it: tcp://HOST:8786")
        devices = list_devices(device) if backend == "loky" else [device]
        make_team: TeamFactory
        if backend != "loky":
            make_team = functools.partial(_cluster, backend=backend, address=address or "auto", device=device)
        elif len(devices) * processes > 1:
            make_team = functools.partial(_processes, devices=devices * processes)
        else:
            make_team = _nobody
        return command(*args, device=devices[0], part=_parsed_part(part), make_team=make_team, **options)

    return with_team


def _parsed_part(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise click.UsageError(f"--part {text}: write I/N with I from 1 to N, such as 1/4")
    return int(index), int(parts)


def _nobody(store: Path, load: Callable[..., Any], how: dict[str, Any]) -> None:
    """One device: this process does it all."""


def _processes(store: Path, load: Callable[..., Any], how: dict[str, Any], *, devices: list[str]) -> Any:
    from pipeline.distill.processes import Processes

    order = _order(store, how)
    return Processes([order(functools.partial(load, device=device)) for device in devices])


def _cluster(
    store: Path,
    load: Callable[..., Any],
    how: dict[str, Any],
    *,
    backend: str,
    address: str,
    device: str,
) -> Any:
    from pipeline.distill.cluster import Cluster

    order = _order(store, how)(functools.partial(load, device=device))
    return Cluster(order, backend=backend, address=address, gpus=device != "cpu")


def _order(store: Path, how: dict[str, Any]) -> Callable[[Callable[[], Any]], Any]:
    from pipeline.distill.worker import Order

    run, began = secrets.token_hex(8), time.time()
    return lambda load: Order(run, began, store.absolute(), load, **how)
