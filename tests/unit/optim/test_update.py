"""One gradient step in every mode: equal results, and nothing stale after shapes or settings change."""

from pathlib import Path

import pytest
import torch
from reach import needs_compiler
from torch import Tensor
from torch.func import grad

from rlopt.optim.compiled_step import COMPILE_PAYS_AFTER, ActingCopy, GradientStep, choose_mode, compiler_found

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs cannot be tried")
pytestmark = pytest.mark.kernels


class Regression:
    """w <- w - rate * gradient of mean (x w - y)^2, in place."""

    def __init__(self, rate: float, device: str = "cpu") -> None:
        self.weight = torch.ones(3, device=device)
        self.rate = rate

    def step(self, x: Tensor, y: Tensor, *, power: int = 2) -> dict[str, Tensor]:
        def loss(weight: Tensor) -> Tensor:
            return ((x @ weight - y).abs() ** power).mean()

        before = loss(self.weight)
        self.weight.sub_(self.rate * grad(loss)(self.weight))
        return {"loss": before}

    def state(self) -> list[Tensor]:
        return [self.weight]


def batches(rows: int, count: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draws = [(torch.randn(rows, 3, generator=generator), torch.randn(rows, generator=generator)) for _ in range(count)]
    return [(x.to(device), y.to(device)) for x, y in draws]


def expected(rate: float, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The closed form of the gradient, -2/B x^T (y - x w)."""
    weight = torch.ones(3, dtype=torch.float64)
    for x, y in data:
        x, y = x.cpu().double(), y.cpu().double()
        weight = weight - rate * 2 / len(x) * x.T @ (x @ weight - y)
    return weight.float()


@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=needs_compiler)])
def test_every_mode_takes_the_same_steps(mode: str) -> None:
    problem, data = Regression(0.05), batches(8, 5)
    step = GradientStep(problem.step, mode, problem.state)  # type: ignore[arg-type]
    for x, y in data:
        info = step(x, y)
    torch.testing.assert_close(problem.weight, expected(0.05, data))
    assert info["loss"].ndim == 0 and not info["loss"].requires_grad


@needs_cuda
def test_a_captured_graph_takes_the_same_steps() -> None:
    problem, data = Regression(0.05, "cuda"), batches(8, 5, "cuda")
    step = GradientStep(problem.step, "cuda_graph", problem.state)
    for x, y in data:
        step(x, y)
    torch.testing.assert_close(problem.weight.cpu(), expected(0.05, data), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_shapes_settings_and_owners_are_compiled_apart() -> None:
    first, second = Regression(0.05), Regression(0.2)
    step = GradientStep(first.step, "compiled", first.state)
    other = GradientStep(second.step, "compiled", second.state)
    small, large = batches(8, 1), batches(16, 1)
    step(*small[0])
    other(*small[0])  # the same code, other state and another constant
    torch.testing.assert_close(first.weight, expected(0.05, small))
    torch.testing.assert_close(second.weight, expected(0.2, small))
    step(*large[0])
    torch.testing.assert_close(first.weight, expected(0.05, [*small, *large]))
    before = first.weight.clone()
    step(*small[0], power=1)  # the gradient of the mean absolute error
    x, y = small[0]
    torch.testing.assert_close(first.weight, before - 0.05 / 8 * x.T @ (x @ before - y).sign())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_the_acting_copy_is_at_most_one_update_old(device: str) -> None:
    source = [torch.zeros(2, device=device)]
    acting = ActingCopy(source)
    for update in range(1, 5):
        source[0].fill_(update)
        acting.follow()
        lag = 0 if device == "cpu" else 1
        assert acting.parameters()[0].tolist() == [update - lag] * 2


def test_auto_compiles_long_runs_only() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    long = COMPILE_PAYS_AFTER
    assert choose_mode("auto", cpu, long - 1) == "eager"
    assert choose_mode("off", cuda, 10**9) == "eager"
    assert choose_mode("auto", cuda, long) == choose_mode("on", cuda, 0) == "cuda_graph"
    assert choose_mode("on", torch.device("mps"), 10**9) == "eager"


def test_without_a_compiler_the_step_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    compiler_found.cache_clear()
    try:
        assert choose_mode("on", torch.device("cpu"), 10**9) == "eager"
    finally:
        compiler_found.cache_clear()


@pytest.mark.parametrize(
    ("script", "works"), [("#!/bin/sh\nexit 1\n", False), ('#!/bin/sh\nexec g++ "$@"\n', True), (None, False)]
)
def test_a_compiler_counts_if_it_compiles(
    script: str | None, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if works and not compiler_found():
        pytest.skip("no C++ compiler: there is none to wrap")
    command = tmp_path / "c++wrapper"
    if script is not None:
        command.write_text(script)
        command.chmod(0o755)
    monkeypatch.setenv("CXX", f"{command} -O1")
    compiler_found.cache_clear()
    try:
        assert compiler_found() is works
        assert (choose_mode("on", torch.device("cpu"), 1) == "compiled") is works
    finally:
        compiler_found.cache_clear()
