"""Settings in YAML: plain data, YAML 1.2's numbers, and one line for everything that is not."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.errors import ConfigError
from rlopt.settings.presets import default_settings, load_preset, preset_names
from rlopt.settings.yaml_files import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("010", 10), ("-3", -3), ("0.5", 0.5), ("1e-3", 1e-3), ("3.", 3.0), (".5", 0.5), ("1e5", 1e5),
        ("true", True), ("no", False), ("null", None), ("~", None), ("'7'", "7"), ("1:30", "1:30"), ("0x10", "0x10"),
        ("2024-99-99", "2024-99-99"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("[1, a]", [1, "a"]),
        ("{a: 1.5}", {"a": 1.5}), (".inf", float("inf")), ("-.inf", float("-inf")), ("é", "é"),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(f"x: {text}")["x"]
    assert found == value and type(found) is type(value)


def test_every_preset_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.resources import files

    for name in preset_names("mdpo"):
        text = files("rlopt.configs").joinpath("mdpo", f"{name}.yaml").read_text()
        theirs = yaml.safe_load(text)
        for key, value in load_preset("mdpo", name).items():
            assert value == theirs[key] or value == float(theirs[key])


BOMB = "x: {k: [&a0 [1, 1], " + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)) + "]}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "line 1: an alias"),
        ("net_arch: &a [*a]", "an alias"),
        ("net_arch: " + "[" * 500 + "]" * 500, "nested too deeply"),
        ("net_arch: " + "[" * 500, "nested too deeply|not valid YAML"),
        ("total_timesteps: " + "9" * 5000, "total_timesteps = 9+.* is not a whole number"),
        ("total_timesteps: 1e400", "total_timesteps = inf is not a whole number"),
        ("learning_rate: .nan", "nan is outside"),
        ("gamma: 2024-99-99", "2024-99-99 is not a number"),
        ("gamma: !!python/object/apply:os.system ['touch sprung']", "not valid YAML"),
        ("gamma: 0.9 \0", "not valid YAML"),
        (b"# caf\xe9\ngamma: 0.9\n", "save it as UTF-8"),
        ("- 1", "setting: value"),
        ("gamma: 0.9\nlearning_rate: 1\ngamma: 0.99", "line 3: 'gamma' is there twice"),
        ("a" * (2**20 + 1), "over 1048576 bytes"),
    ],
    ids=[
        "aliases",
        "itself",
        "deep",
        "open",
        "long",
        "infinite",
        "nan",
        "date",
        "tag",
        "nul",
        "latin-1",
        "list",
        "twice",
        "large",
    ],
)
def test_what_is_no_preset_is_one_line(
    content: str | bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said) as caught:
        default_settings("mdpo", MDPOConfig, "x.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not Path("sprung").exists()


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")  # reading it would block for ever
    for name in ("folder.yaml", "pipe.yaml"):
        with pytest.raises(ConfigError, match="not a plain file"):
            load_preset("mdpo", str(tmp_path / name))
