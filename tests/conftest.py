"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photographs (`data/`) and weights (`weights/`), or a skip where it is absent."""
    folder = Path(os.environ.get("SOFTFOCUS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "cuhk" / "image").is_dir():
        pytest.skip("no real data beside this clone: set SOFTFOCUS_SHARED to a folder with data/ and weights/")
    return folder.resolve()
