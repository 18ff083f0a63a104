"""How many photographs a second this machine can feed a teacher with, and what each costs its processor.

The very processes of `softfocus label` on a GPU read, decode, compress and write; in place of a teacher, the bytes
of ready-made maps are copied where a GPU would put them. It needs no GPU, and says beforehand whether there are
cores enough for one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.distill import label
from pipeline.distill.crew.captain import Captain
from pipeline.distill.crew.feed import Decoder
from pipeline.distill.crew.messages import Pack
from pipeline.distill.crew.shards import Landing, Mapped, Shards
from pipeline.distill.feed import Batch, Feed, group_size
from pipeline.distill.meters import WORK, Meters, StreamFigures
from pipeline.distill.tasks import Survey
from pipeline.distill.team import Outcome
from pipeline.provenance import Provenance
from pipeline.store import Codec, encode
from pipeline.store.codec import arrange

__all__ = ["Feeding", "measure_feeding", "words"]


class Feeding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        rate: photographs a second, from the first one read to the last shard on disk.
        hands_ms, captain_ms: processor time a photograph, of the helping processes and of the one that has the GPU.
        cores: of this machine.
        could_feed: photographs a second if all cores are as fast together as one by one.
        map_bytes: mean, on disk.
        busy: seconds a photograph of each stage.
    """

    photographs: int
    rate: float
    hands: int
    hands_ms: float
    captain_ms: float
    cores: int
    could_feed: float
    map_bytes: float
    busy: dict[str, float]


def measure_feeding(
    manifest: Path, store: Path, *, side: int, hands: int, batch_size: int, codec: Codec, shard_size: int
) -> Feeding:
    """Label a manifest with maps of side x side that are there already."""
    team = _NoTeacher(side, hands, batch_size)
    summary = label(manifest, store, load_teacher=lambda: None, team=team, codec=codec, shard_size=shard_size)  # type: ignore[arg-type,return-value]
    cores = len(os.sched_getaffinity(0))
    hands_ms, captain_ms = (1e3 * seconds / summary.labelled for seconds in (team.hands_s, team.captain_s))
    return Feeding(
        photographs=summary.labelled,
        rate=summary.rate,
        hands=hands,
        hands_ms=hands_ms,
        captain_ms=captain_ms,
        cores=cores,
        could_feed=cores * 1e3 / (hands_ms + captain_ms),
        map_bytes=summary.bytes / summary.labelled,
        busy={stage: seconds / summary.labelled for stage, seconds in summary.stage_seconds.items()},
    )


def words(feeding: Feeding) -> str:
    """In a line."""
    stages = ", ".join(
        f"{stage} {1e3 * seconds:.2f}" for stage, seconds in feeding.busy.items() if stage in WORK and seconds
    )
    each = 1e3 / (feeding.hands_ms + feeding.captain_ms)
    return (
        f"without a teacher: {feeding.rate:.0f} photographs/s, {each:.0f} a second and core, {feeding.could_feed:.0f} "
        f"with all {feeding.cores}; processor {feeding.hands_ms:.2f} ms a photograph in {feeding.hands} hands, "
        f"{feeding.captain_ms:.2f} ms in their captain; {feeding.map_bytes / 1e3:.0f} KB a map; ms each: {stages}"
    )


class _NoTeacher:
    """A team that asks nobody; see `pipeline.distill.team.Team`."""

    workers = 1

    def __init__(self, side: int, hands: int, batch_size: int) -> None:
        self._side, self._hands, self._batch_size = side, hands, batch_size
        self.provenance = Provenance(
            kind="bench",
            name="none",
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )
        self.hands_s = self.captain_s = 0.0

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        return self.provenance, [(self._side, self._side)] * len(sizes)

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        maps = [_map(self._side, survey.description.codec, number) for number in range(8)]
        meters, batch_size = Meters(), self._batch_size
        done, ahead = 0, 2 * batch_size + group_size(batch_size) * self._hands
        with Captain(self._hands, meters, lambda data: lambda: None) as captain:
            captain.until(captain.is_ready)
            pids = [peer.process.pid for peer in (*captain.hands, *captain.writers)]
            hands_s, captain_s, begin = sum(map(_processor_s, pids)), time.process_time(), time.perf_counter()
            output = Shards(survey.store, survey.description, self, captain, meters, room=2 * ahead)  # type: ignore[arg-type]
            with output:
                for batch in Feed(Decoder(captain, survey.source)).batches(
                    survey.tasks(), batch_size=batch_size, ahead=ahead
                ):
                    _pass_on(batch, captain, output, maps, group_size(batch_size))
                    done += len(batch.positions)
            self.hands_s = sum(map(_processor_s, pids)) - hands_s
            self.captain_s = time.process_time() - captain_s
            return Outcome(
                StreamFigures(
                    done=done,
                    labelled=output.labelled,
                    shards=output.shards,
                    bytes=output.bytes,
                    batch_size=batch_size,
                    seconds=time.perf_counter() - begin,
                    stage_seconds=dict(meters.seconds),
                )
            )

    def close(self) -> None:
        pass


def _pass_on(batch: Batch, captain: Captain, output: Shards, maps: list[npt.NDArray[np.uint8]], step: int) -> None:
    """What the predictor does, without a device."""
    images = batch.images()
    size, room = len(maps[0]), Pack.room(len(maps[0]))
    good = sum(not isinstance(image, str) for image in images)
    landing = Landing(captain.slabs.take(max(good, 1) * room), good)
    results: list[Mapped | str] = []
    for image in images:
        if isinstance(image, str):
            results.append(image)
            continue
        start = (len(results) - sum(isinstance(result, str) for result in results)) * room
        landing.slab.data[start : start + size] = maps[len(results) % len(maps)]
        results.append(Mapped(landing, start, size, 0.0, 1.0, 0))
        captain.attend()
    batch.release()
    if batch.first:
        output.begin(batch.task)
    for start in range(0, len(results), step):
        output.put(batch.positions[start : start + step], results[start : start + step])
    if batch.last:
        output.end()


def _map(side: int, codec: Codec, number: int) -> npt.NDArray[np.uint8]:
    """Waves with as little noise as a real map has: about half of the bytes of a PNG-16."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(np.sin(random.uniform(1, 12) * x + random.uniform(1, 12) * y + random.uniform(0, 6)) for _ in range(8))
    values = waves + random.normal(size=(side, side)) * 3e-4 * np.ptp(waves)
    return np.frombuffer(arrange(encode(values, "u16").codes, codec), np.uint8)


def _processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
