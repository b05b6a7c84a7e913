"""Wheels in portions: their sizes, and that what is put together again is what was split."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "scripts"))

from carry_wheels import MANIFEST, ROOM, join, split

LIMIT = ROOM + 1000


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, size in {"a.whl": 400, "b.whl": 700, "large.whl": 2501, "empty.whl": 0, "exact.whl": 1000}.items():
        (folder / name).write_bytes(random.Random(name).randbytes(size))
    return folder


def test_what_is_joined_is_what_was_split(wheels: Path, tmp_path: Path) -> None:
    carried, back = tmp_path / "carried", tmp_path / "back"
    back.mkdir()
    split(wheels, carried, LIMIT)
    portions = list(carried.iterdir())
    assert len(portions) >= 5  # 4,601 bytes of 1,000 each
    for portion in portions:
        assert sum(path.stat().st_size for path in portion.iterdir()) <= LIMIT
    join(carried, back)
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in wheels.iterdir()
    }


def test_what_is_missing_or_damaged_is_named(wheels: Path, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    split(wheels, carried, LIMIT)
    part = next(carried.glob("*/large.whl.part001"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SystemExit, match=r"large\.whl is damaged"):
        join(carried, tmp_path)
    part.unlink()
    with pytest.raises(SystemExit, match=r"large\.whl lacks portion-\d+/large\.whl\.part001"):
        join(carried, tmp_path)
    for manifest in carried.glob(f"*/{MANIFEST}"):
        manifest.unlink()
    with pytest.raises(SystemExit, match="has no portion"):
        join(carried, tmp_path)
