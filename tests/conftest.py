"""What holds for all tests: their order, and that the kernels of a compiled step are seldom built."""

import gc
import importlib.util
from collections.abc import Generator

import pytest

from rlopt.optim import compiled_step

# dm-control cannot be installed for Python 3.13.
DM_CONTROL = importlib.util.find_spec("dm_control") is not None
collect_ignore = [] if DM_CONTROL else ["unit/envs/test_suite_tasks.py", "unit/envs/test_warp_backend.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the quick files of the last folder at the end, where a process that has a slow one would be left alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: "web" in item.path.parts and item.path not in slow)


def pytest_collection_finish() -> None:
    """Spares the garbage collector the million objects of what has been imported, which stay until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips a test that only lacks dm-control: what it did says so, in rlopt's words or Python's."""
    report = yield
    told = ("rlopt[dmc]", "No module named 'dm_control'")
    if report.failed and not DM_CONTROL and any(line in report.longreprtext for line in told):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.reportinfo()[1] or 0, "Skipped: dm-control is not installed")
    return report


@pytest.fixture(autouse=True)
def _traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the operations one by one, after seconds instead of a minute, unless marked ``kernels``."""
    if request.node.get_closest_marker("kernels") is None:
        monkeypatch.setattr(compiled_step, "kernels", lambda traced, cpp_wrapper: traced.graph)
