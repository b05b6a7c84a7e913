"""``rlopt preferences`` as a user types it."""

from pathlib import Path

import numpy as np
import pytest

from rlopt.cli.main import run_verb
from rlopt.errors import ConfigError, DataError
from rlopt.preferences import load_preferences


def preferences(*argv: str) -> int:
    return run_verb(["preferences", *argv])


def pairs(path: Path) -> Path:
    """Fragments of Pendulum's shapes, of which the one with the larger first number is better."""
    rng = np.random.default_rng(0)
    sides = {f"obs_{side}": rng.normal(size=(40, 6, 3)).astype(np.float32) for side in (1, 2)}
    sides |= {f"action_{side}": rng.uniform(-2, 2, (40, 6, 1)).astype(np.float32) for side in (1, 2)}
    label = sides["obs_2"][:, :, 0].sum(axis=1) > sides["obs_1"][:, :, 0].sum(axis=1)
    np.savez(path, label=label.astype(np.float32), **sides)
    return path


def test_a_set_is_imported_fitted_described_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "prefs"
    assert preferences("import", str(folder), str(pairs(tmp_path / "set.npz"))) == 0
    assert "40 answers more, 40 in all" in capsys.readouterr().out
    assert preferences("fit", str(folder), "--env", "Pendulum-v1") == 0
    assert "held-out pairs in the same order" in capsys.readouterr().out
    assert load_preferences(folder).model["fits"] == 1
    assert preferences("info", str(folder)) == 0
    assert "40 about 80 fragments of up to 6 steps" in capsys.readouterr().out
    assert preferences("export", str(folder), str(tmp_path / "out.jsonl")) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40


def test_new_writes_settings_and_mistakes_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "prefs"
    assert preferences("new", str(folder), "--labels", "7", "--compare", "4", "--teacher", "noisy") == 0
    config = load_preferences(folder).config
    assert (config.labels, config.compare, config.teacher) == (7, 4, "noisy")
    with pytest.raises(DataError, match="exists"):
        preferences("new", str(folder))
    with pytest.raises(ConfigError, match="where"):
        preferences("new")
    with pytest.raises(ConfigError, match="recent_steps = 60 has no two fragments"):
        preferences("new", str(tmp_path / "other"), "--recent-steps", "60")
    with pytest.raises(DataError, match="has no answers"):
        preferences("export", str(folder), str(tmp_path / "out.npz"))
