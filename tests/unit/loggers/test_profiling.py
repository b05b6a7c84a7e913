"""Time is counted once, for the innermost section, and training is not changed by being watched."""

import gzip
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from reach import make

from rlopt.loggers import profiler as profiling
from rlopt.loggers.profiler import Profile


def test_nested_sections_are_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])

    class Model:
        device = torch.device("cpu")
        num_timesteps = 0
        profiled_sections: ClassVar[dict[str, str]] = {"sample": "sample"}

        def boundary_hook(self, model: object) -> bool:
            now[0] += 1.0
            return True

        def sample(self) -> None:
            now[0] += 2.0

        def train(self) -> None:
            now[0] += 5.0
            self.sample()

    model = Model()
    profile = Profile(model, tmp_path)
    assert model.boundary_hook(model)  # type: ignore[call-arg]
    model.train()
    now[0] += 2.0
    model.num_timesteps = 40
    table = profile.finish(model)
    result = json.loads((tmp_path / "profile.json").read_text())
    assert {row["section"]: (row["seconds"], row["share"]) for row in result["sections"]} == {
        "update": (5.0, 0.5),
        "sample": (2.0, 0.2),
        "other": (2.0, 0.2),
        "log": (1.0, 0.1),
    }
    assert "4 environment steps/s" in table


def test_a_watched_run_is_the_same_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiling, "TRACE_SECONDS", 0.05)
    plain = make()
    plain.learn(120)
    watched = make()  # seeds the random numbers again
    watched.boundary_hook = lambda _: True
    profile = Profile(watched, tmp_path)
    watched.learn(120)
    profile.finish(watched)
    for ours, theirs in zip(watched.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    sections = {row["section"] for row in json.loads((tmp_path / "profile.json").read_text())["sections"]}
    assert sections == {"env", "act", "store", "sample", "update", "log", "other"}
    with gzip.open(tmp_path / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::addmm" in names
