"""The codec benchmark: its rows say what the formats do."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.codec import compare_codecs


def test_rows_tell_sizes_and_errors_of_every_format() -> None:
    """A smooth map: 16 bits keep it to range / 131070, the default is smaller than PNG-16, no codec adds error."""
    y, x = np.mgrid[:60, :90].astype(np.float32)
    maps = [np.hypot(y - 20, x - 30), np.sin(y / 9) + x / 50]
    rows = {row.format: row for row in compare_codecs(maps, repeats=1)}
    default, png = rows["u16 delta-deflate"], rows["PNG-16"]
    assert png.size == 1
    assert default.size < 1
    assert default.bytes < rows["u16 deflate"].bytes < rows["u16 none"].bytes
    assert rows["u16 none"].bytes == 60 * 90 * 2 + 4
    sixteen_bits = [row for name, row in rows.items() if name.startswith("u16")]
    assert all(row.largest_error == png.largest_error <= 1 / 131070 * (1 + 1e-9) for row in sixteen_bits)
    assert rows["u8 none"].largest_error == pytest.approx(1 / 510, rel=0.05)
    assert rows["float16 deflate"].largest_error > default.largest_error
    assert all(row.write_speed > 0 for row in rows.values())
