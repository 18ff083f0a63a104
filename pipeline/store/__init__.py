"""The label store: soft labels of many photographs in a folder of HDF5 shards.

    store.json          what every number means, and which teacher made it
    plan/0000.h5 ...    which label is in which row of which shard, decided before any work
    shards/000000.h5    labels (N, H, W), offset and scale for each map, ids, hashes

Everything is written whole or not at all, so a killed run loses its open shard and nothing else, and
nothing needs a lock: processes that do the same work at once make the same files.
"""

from pipeline.store.codec import CODECS, Arranged, Codec, Packed, pack, unpack
from pipeline.store.confidence import confidence_size, pack_confidence
from pipeline.store.coverage import SplitCoverage, count_splits, split_table
from pipeline.store.description import (
    StoreDescription,
    check_empty,
    check_settings,
    check_teacher,
    create_store,
    has_description,
    read_description,
    render,
    tool_version,
)
from pipeline.store.encoding import DTYPES, DType, Encoded, decode, encode
from pipeline.store.errors import DamagedShard, MissingLabel, StoreError
from pipeline.store.folders import clean_store, left_over
from pipeline.store.generations import (
    place_generation,
    read_plan,
    recover_description,
    redraw_generation,
    write_generation,
)
from pipeline.store.plan import Generation, Images, Plan, PlanShard, next_generation
from pipeline.store.reader import LabelReader
from pipeline.store.seal import SEAL_BYTES, Seal, check_seal, read_seal
from pipeline.store.shard import (
    ABSENT,
    finished_shards,
    labelled_rows,
    read_reasons,
    read_results,
    seal_at_home,
    shard_files,
    shard_path,
    write_shard,
)

__all__ = [
    "ABSENT",
    "CODECS",
    "DTYPES",
    "SEAL_BYTES",
    "Arranged",
    "Codec",
    "DType",
    "DamagedShard",
    "Encoded",
    "Generation",
    "Images",
    "LabelReader",
    "MissingLabel",
    "Packed",
    "Plan",
    "PlanShard",
    "Seal",
    "SplitCoverage",
    "StoreDescription",
    "StoreError",
    "check_empty",
    "check_seal",
    "check_settings",
    "check_teacher",
    "clean_store",
    "confidence_size",
    "count_splits",
    "create_store",
    "decode",
    "encode",
    "finished_shards",
    "has_description",
    "labelled_rows",
    "left_over",
    "next_generation",
    "pack",
    "pack_confidence",
    "place_generation",
    "read_description",
    "read_plan",
    "read_reasons",
    "read_results",
    "read_seal",
    "recover_description",
    "redraw_generation",
    "render",
    "seal_at_home",
    "shard_files",
    "shard_path",
    "split_table",
    "tool_version",
    "unpack",
    "write_generation",
    "write_shard",
]
