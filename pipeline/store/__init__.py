"""The label store: soft labels of many photographs in a folder of HDF5 shards.

    store.json          what every number means, and which teacher made it
    plan/0000.h5 ...    which label is in which row of which shard, decided before any work
    shards/000000.h5    labels (N, H, W), offset and scale for each map, ids, hashes

Everything is written whole or not at all, so a killed run loses its open shard and nothing else, and
nothing needs a lock: processes that do the same work at once make the same files.
"""

from pipeline.store.codec import CODECS, Arranged, Codec, Packed, pack
from pipeline.store.coverage import Coverage, SplitCoverage, coverage
from pipeline.store.description import (
    StoreDescription,
    check_empty,
    check_settings,
    check_teacher,
    create_store,
    has_description,
    read_description,
)
from pipeline.store.encoding import DTYPES, DType, Encoded, decode, encode
from pipeline.store.errors import DamagedShard, MissingLabel, StoreError
from pipeline.store.generations import read_plan, write_generation
from pipeline.store.plan import Generation, Images, Plan, PlanShard, next_generation
from pipeline.store.reader import LabelReader
from pipeline.store.seal import SEAL_BYTES
from pipeline.store.shard import ABSENT, finished_shards, read_reasons, read_results, shard_path, write_shard

__all__ = [
    "ABSENT",
    "CODECS",
    "DTYPES",
    "SEAL_BYTES",
    "Arranged",
    "Codec",
    "Coverage",
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
    "SplitCoverage",
    "StoreDescription",
    "StoreError",
    "check_empty",
    "check_settings",
    "check_teacher",
    "coverage",
    "create_store",
    "decode",
    "encode",
    "finished_shards",
    "has_description",
    "next_generation",
    "pack",
    "read_description",
    "read_plan",
    "read_reasons",
    "read_results",
    "shard_path",
    "write_generation",
    "write_shard",
]
