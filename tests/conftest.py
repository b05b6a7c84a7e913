"""What holds for all tests: the operations of a compiled step are noted, but its kernels are seldom built."""

from __future__ import annotations

import importlib.util

import pytest

from rlopt.optim import compiled_step

# They compare with dm-control, which cannot be installed for Python 3.13.
collect_ignore = (
    []
    if importlib.util.find_spec("dm_control")
    else ["unit/envs/test_suite_tasks.py", "unit/envs/test_warp_backend.py"]
)


@pytest.fixture(autouse=True)
def _traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the operations one by one, after seconds instead of a minute, unless marked ``kernels``."""
    if request.node.get_closest_marker("kernels") is None:
        monkeypatch.setattr(compiled_step, "kernels", lambda traced, cpp_wrapper: traced.graph)
