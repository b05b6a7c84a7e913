"""A profile of a training run: a table of the time of its parts, and a trace of one second."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlopt.run_folder import write_json

COMMON_SECTIONS = {"env.step_async": "env", "env.step_wait": "env", "train": "update", "boundary_hook": "log"}
"""Method -> the section that its time counts for, in every agent; ``profiled_sections`` of an agent's class adds to it.
"log" is everything at a boundary: rows, evaluations, checkpoints."""
TRACE_SECONDS = 1.0


class Profile:
    """Times the methods of a model that is about to train.

    The first update, which compiles and allocates, is left out, and so is the second that is traced. Time within a
    section that lies within another counts for the inner one only. On a GPU every section waits for its kernels, which
    slows training where it would otherwise overlap.

    :param model: any agent; its environment and boundary hook are set
    :param folder: where ``profile.json`` and ``trace.json.gz`` (for chrome://tracing or Perfetto) are written
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self._folder = folder
        self._wait = model.device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._nested: list[float] = []
        self._updates = 0
        self._trace: Any = None
        self._traced = False
        self._began, self._began_at_step = time.perf_counter(), model.num_timesteps
        sections = COMMON_SECTIONS | getattr(model, "profiled_sections", {})
        for path, section in sections.items():
            self._time(model, path, section)
        hook = model.boundary_hook
        model.boundary_hook = lambda model: self._at_boundary(model) and hook(model)

    def _time(self, model: Any, path: str, section: str) -> None:
        *parents, name = path.split(".")
        owner = model
        for parent in parents:
            owner = getattr(owner, parent, None)
        method = getattr(owner, name, None)
        if method is not None:
            setattr(owner, name, self._timed(method, section))

    def _timed(self, method: Callable[..., Any], section: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._nested.append(0.0)
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                if self._wait:
                    torch.cuda.synchronize()
                elapsed = time.perf_counter() - start
                inner = self._nested.pop()
                if self._nested:
                    self._nested[-1] += elapsed
                self._seconds[section] = self._seconds.get(section, 0.0) + elapsed - inner
                self._calls[section] = self._calls.get(section, 0) + 1
                self._updates += section == "update"

        return timed

    def _at_boundary(self, model: Any) -> bool:
        """Starts the trace after the first update, ends it a second later, and then starts the table."""
        if self._updates and not self._traced and self._trace is None:
            self._trace = torch.profiler.profile()
            self._trace.start()
            self._began = time.perf_counter()
        elif self._trace is not None and time.perf_counter() - self._began > TRACE_SECONDS:
            self._end_trace()
            self._seconds, self._calls = {}, {}
            self._began, self._began_at_step = time.perf_counter(), model.num_timesteps
        return True

    def _end_trace(self) -> None:
        self._trace.stop()
        self._trace.export_chrome_trace(str(self._folder / "trace.json.gz"))
        self._trace, self._traced = None, True

    def finish(self, model: Any) -> str:
        """Writes the files and returns the table."""
        if self._trace is not None:
            self._end_trace()
        total = time.perf_counter() - self._began
        seconds = {**self._seconds, "other": max(total - sum(self._seconds.values()), 0.0)}
        rows: list[dict[str, Any]] = [
            {"section": section, "seconds": spent, "share": spent / total, "calls": self._calls.get(section, 0)}
            for section, spent in sorted(seconds.items(), key=lambda item: -item[1])
        ]
        steps = model.num_timesteps - self._began_at_step
        unit = getattr(model, "step_unit", "environment steps")
        write_json(self._folder / "profile.json", {"seconds": total, "steps": steps, "sections": rows})
        lines = [f"{'where time went':16}{'seconds':>10}{'share':>8}{'calls':>10}{'ms a call':>12}"]
        for row in rows:
            each = f"{1000 * row['seconds'] / row['calls']:>12.3f}" if row["calls"] else ""
            lines.append(f"{row['section']:16}{row['seconds']:>10.2f}{row['share']:>8.1%}{row['calls']:>10}{each}")
        lines.append(f"{'in all':16}{total:>10.2f}, {steps / max(total, 1e-9):,.0f} {unit}/s")
        return "\n".join(lines)
