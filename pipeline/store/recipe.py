"""The store in words, and a decoder of some lines that needs h5py and numpy alone.

Both are written into every store (`readme` and `recipe` of `store.json`, and README.txt) and every shard, so
that the maps can be read when softfocus is forgotten. A test runs the text as it stands.
"""

from __future__ import annotations

__all__ = ["README", "README_FILE", "RECIPE"]

README_FILE = "README.txt"

RECIPE = '''\
import pathlib
import h5py, numpy as np

def read_rows(path, rows):
    """Maps of a shard as float32 (H, W) by row, NaN where unknown; no entry for a row without a label."""
    with h5py.File(path, "r") as shard:
        maps = {}
        for row in rows:
            if shard["failed"][row]:
                continue  # the reason why there is no label
            codes = shard["labels"][row]  # codec delta-zstd: `import hdf5plugin` first
            if shard.attrs["codec"].startswith("delta-"):
                codes -= {1: 0, 2: 128}[codes.itemsize]  # all modulo 256 or 65536
                codes = codes.cumsum(axis=0, dtype=codes.dtype).cumsum(axis=1, dtype=codes.dtype)
            values = shard["offset"][row] + shard["scale"][row] * codes.astype(np.float64)
            if shard["invalid_count"][row]:
                values[codes == np.iinfo(codes.dtype).max] = np.nan
            maps[row] = values.astype(np.float32)
        return maps

def read_map(store, sample_id):
    """The map of a sample, or None where the store has none."""
    store, shards, found = pathlib.Path(store), [], None
    for path in sorted((store / "plan").glob("*.h5"), key=lambda path: int(path.stem)):
        with h5py.File(path, "r") as plan:
            shards += plan["shards"][()].tolist()
            for place in np.flatnonzero(plan["id"][()] == sample_id.encode()):
                found = int(plan["row"][place])  # the newest generation of the plan counts
    for number, height, width, start, count in shards:
        if found is not None and start <= found < start + count:
            path = store / "shards" / f"{number:06d}.h5"
            return read_rows(path, [found - start]).get(found - start) if path.exists() else None
'''

README = """\
This folder is a label store: for each of many photographs a map of relative inverse depth (large = near;
scale and shift of each map are unknown) that a depth network, the teacher, has made.

store.json      what the numbers mean, how they are stored, and which teacher made them
plan/NNNN.h5    id -> row, and which rows are in which shard (shards: number, height, width, start, count)
shards/*.h5     labels[row, y, x] with offset, scale and invalid_count for each row; id and sha256 of the
                photograph; failed: why a row has no label; in some stores confidence, see store.json

A map covers the whole photograph, turned upright by its EXIF orientation and squeezed to the map's size:
the value at (y, x) of an h x w map belongs to the point ((y + 0.5) / h, (x + 0.5) / w) of the photograph.

To read the maps with Python, h5py and numpy:

"""


def readme_text(readme: str = README, recipe: str = RECIPE) -> str:
    """README.txt: the words, then the recipe, indented."""
    return readme + "".join(f"    {line}\n" if line else "\n" for line in recipe.splitlines())
