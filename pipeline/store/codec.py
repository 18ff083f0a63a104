"""A map's codes as the bytes of its HDF5 chunk, and back.

Depth is smooth, so a code is nearly foretold by the codes above and to the left of it. `delta-` codecs store
what is left, modulo the codes' range:

    stored[y, x] = code[y, x] - code[y-1, x] - code[y, x-1] + code[y-1, x-1] + bias

with codes of 0 outside the map and a bias that keeps small differences of either sign in the low byte.
Undoing it takes a sum along each axis, one line in numpy (`words`). The rest are HDF5's own filters
(shuffle, deflate, Fletcher's checksum), applied outside HDF5, which lets one thread in at a time. Deflate is
written by ISA-L, whose first level is as small as zlib's on these bytes and several times faster (figures in
docs/labels.md, from `softfocus bench codec`); any zlib reads it. Processors of different kinds may deflate to
different bytes, never to different maps.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from pipeline.store.encoding import Encoded
from pipeline.store.errors import StoreError

__all__ = [
    "BIAS",
    "CODECS",
    "Arranged",
    "Codec",
    "Packed",
    "arrange",
    "chunk_filters",
    "codec_words",
    "compress",
    "filters_words",
    "fletcher32",
    "is_delta",
    "pack",
    "require_codec",
    "unpack",
]

Codec = Literal["delta-deflate", "deflate", "none", "delta-zstd"]
CODECS: tuple[Codec, ...] = ("delta-deflate", "deflate", "none", "delta-zstd")

BIAS = {1: 0, 2: 128}
"""By bytes of a code: what is added to a difference before it is stored."""

DEFLATE_LEVEL = 1  # of ISA-L's 0 to 3
ZSTD_LEVEL = 3
_ZSTD_FILTER = 32015  # registered with The HDF Group; its chunk is one plain Zstandard frame


class Packed(NamedTuple):
    """An encoded map as the bytes of its HDF5 chunk, and those of its confidence in a store that has one."""

    chunk: bytes
    offset: float
    scale: float
    invalid_count: int
    confidence: bytes = b""


class Arranged(NamedTuple):
    """An encoded map as the bytes that are to be compressed, see `arrange`."""

    data: Buffer
    offset: float
    scale: float
    invalid_count: int


Buffer = bytes | npt.NDArray[np.uint8]


def pack(encoded: Encoded | Arranged, codec: Codec) -> Packed:
    """An encoded map as one chunk."""
    data = encoded.data if isinstance(encoded, Arranged) else arrange(encoded.codes, codec)
    return Packed(compress(data, codec), encoded.offset, encoded.scale, encoded.invalid_count)


def arrange(codes: npt.NDArray[Any], codec: Codec) -> bytes:
    """Codes (H, W) as the bytes that are to be compressed: differences, and low bytes before high bytes."""
    if is_delta(codec):
        zero = codes.dtype.type(0)
        codes = np.diff(np.diff(codes, axis=0, prepend=zero), axis=1, prepend=zero)
        codes += codes.dtype.type(BIAS[codes.itemsize])
    if codec == "none":
        return codes.tobytes()
    planes: npt.NDArray[np.uint8] = np.ascontiguousarray(codes).reshape(-1, 1).view(np.uint8).T
    return planes.tobytes()


def compress(arranged: Buffer, codec: Codec) -> bytes:
    """What `arrange` made as a chunk: compressed, with Fletcher's checksum at the end."""
    squeezed: bytes
    if codec == "delta-zstd":
        squeezed = _zstandard().ZstdCompressor(level=ZSTD_LEVEL).compress(arranged)
    else:
        squeezed = bytes(arranged) if codec == "none" else isal_zlib.compress(arranged, DEFLATE_LEVEL)
    return squeezed + fletcher32(squeezed).to_bytes(4, "little")


def unpack(chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any], codec: Codec) -> npt.NDArray[Any]:
    """The codes (H, W) of a chunk.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    squeezed = chunk[:-4]
    if fletcher32(squeezed) != int.from_bytes(chunk[-4:], "little"):
        raise ValueError("wrong checksum")
    size = shape[0] * shape[1] * dtype.itemsize
    try:
        if codec == "delta-zstd":
            arranged = _zstandard().ZstdDecompressor().decompress(squeezed, max_output_size=size)
        else:
            arranged = squeezed if codec == "none" else isal_zlib.decompress(squeezed, bufsize=size)
    except Exception as error:  # each library has an exception of its own
        raise ValueError(f"cannot be decompressed: {error}") from error
    if len(arranged) != size:
        raise ValueError(f"{len(arranged)} bytes where a map has {size}")
    if codec == "none":
        return np.frombuffer(arranged, dtype).reshape(shape)
    stored = _joined(np.frombuffer(arranged, np.uint8).reshape(dtype.itemsize, *shape), dtype)
    return _summed(stored, BIAS[dtype.itemsize]) if is_delta(codec) else stored


def _joined(planes: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Byte planes (bytes of a code, H, W), the lowest first, as codes (H, W)."""
    codes: npt.NDArray[Any] = planes[-1].astype(dtype)
    for plane in planes[-2::-1]:
        codes <<= 8
        codes |= plane
    return codes


def _summed(stored: npt.NDArray[Any], bias: int) -> npt.NDArray[Any]:
    """Codes from their differences.

    The same as `cumsum` along both axes. Along a row numpy sums 32-bit numbers three times faster than
    16-bit ones; down the columns it sums slowly, so whole rows are added: first within blocks of about
    sqrt(H) rows, all blocks at once, then from block to block.
    """
    codes: npt.NDArray[Any] = np.cumsum(stored - stored.dtype.type(bias), axis=1, dtype=np.uint32).astype(stored.dtype)
    height = len(codes)
    rows = max(1, int(height**0.5))
    whole = height // rows * rows
    blocks = codes[:whole].reshape(-1, rows, codes.shape[1])
    for row in range(1, rows):
        blocks[:, row] += blocks[:, row - 1]
    for block in range(1, len(blocks)):
        blocks[block] += blocks[block - 1, -1]
    for row in range(whole, height):
        codes[row] += codes[row - 1]
    return codes


def is_delta(codec: Codec) -> bool:
    """Whether differences are stored and not the codes themselves."""
    return codec.startswith("delta-")


def chunk_filters(codec: Codec) -> dict[str, Any]:
    """Arguments of `create_dataset` for a dataset whose chunks `pack` makes.

    Raises:
        StoreError: the codec needs a library that is not installed.
    """
    require_codec(codec)
    if codec == "none":
        return {"fletcher32": True}
    if codec == "delta-zstd":
        return {"shuffle": True, "compression": _ZSTD_FILTER, "compression_opts": (ZSTD_LEVEL,), "fletcher32": True}
    return {"shuffle": True, "compression": "gzip", "compression_opts": DEFLATE_LEVEL, "fletcher32": True}


def require_codec(codec: str) -> None:
    """Refuse a codec that cannot be used here.

    Raises:
        StoreError: unknown, or its library is not installed.
    """
    if codec not in CODECS:
        raise StoreError(f"no codec {codec!r}; choose one of {', '.join(CODECS)}")
    if codec == "delta-zstd":
        _zstandard()
        _library("hdf5plugin")  # registers the filter with HDF5


def _zstandard() -> ModuleType:
    return _library("zstandard")


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StoreError(
            f"codec delta-zstd: {name} cannot be imported ({error}); pip install 'softfocus[zstd]'"
        ) from error


def codec_words(codec: Codec, dtype: np.dtype[Any]) -> str:
    """How to get the codes from what HDF5 gives, in a sentence that is stored with them."""
    if not is_delta(codec):
        return "code = labels[row]"
    bias, kind = BIAS[dtype.itemsize], f"u{dtype.itemsize}"
    inner = f"labels[row] - numpy.{dtype.name}({bias})" if bias else "labels[row]"
    return (
        f"code = numpy.cumsum(numpy.cumsum({inner}, axis=0, dtype={kind!r}), axis=1, dtype={kind!r}), "
        f"all modulo {256**dtype.itemsize}"
    )


def filters_words(codec: Codec) -> str:
    """The HDF5 filters of the maps, in a sentence that is stored with them."""
    plain = "; all filters come with plain HDF5"
    return {
        "delta-deflate": f"shuffle, gzip, fletcher32{plain}",
        "deflate": f"shuffle, gzip, fletcher32{plain}",
        "none": f"fletcher32{plain}",
        "delta-zstd": f"shuffle, Zstandard (HDF5 filter {_ZSTD_FILTER}, in Python `import hdf5plugin`), fletcher32",
    }[codec] + "; one chunk a map"


def fletcher32(data: bytes) -> int:
    """Fletcher's checksum as HDF5 computes it: 16-bit big-endian words, sums modulo 65535.

    J. G. Fletcher, An Arithmetic Checksum for Serial Transmissions, IEEE Trans. Comm. 30 (1982). A sum of
    zero is only written for data that is all zero; otherwise the equivalent 65535 is.

    With the words as a table of m rows and 1024 columns, both sums follow from those of rows and columns.
    """
    words = np.frombuffer(data if len(data) % 2 == 0 else data + b"\0", dtype=">u2")
    table = np.zeros((-(-len(words) // 1024), 1024), np.uint32)
    table.reshape(-1)[table.size - len(words) :] = words  # zeros in front change neither sum
    fits = np.uint32 if len(table) <= 1 << 16 else np.uint64  # numpy sums without conversion twice as fast
    rows = table.sum(axis=1, dtype=np.uint32).astype(np.uint64)
    columns = table.sum(axis=0, dtype=fits).astype(np.uint64)
    below = np.arange(len(table) - 1, -1, -1, dtype=np.uint64)
    first = int(rows.sum())
    second = 1024 * int(rows @ below) + int(columns @ np.arange(1024, 0, -1, dtype=np.uint64))
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    return total % 65535 or (65535 if total else 0)
