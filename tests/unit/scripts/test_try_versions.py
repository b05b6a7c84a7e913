"""The oldest versions that are tried are those that pyproject.toml allows."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_every_dependency_has_a_lowest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import try_versions

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in ([], *([name] for name in project["optional-dependencies"] if name not in ("docs", "test"))):
        wanted = project["dependencies"] + [line for name in extra for line in project["optional-dependencies"][name]]
        assert len(try_versions.lowest_versions(list(extra))) == len(wanted), extra
    assert "numpy==2.0.*" in try_versions.lowest_versions([])
    assert "minari==0.5.3" in try_versions.lowest_versions(["d4rl"])
