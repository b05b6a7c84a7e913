"""The graph of a function of tensors: what it does, what it refuses, and who shares what is compiled of it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from rlopt.optim import compiled_step
from rlopt.optim.compiled_step import GradientStep
from rlopt.optim.traced import CannotCompile, _add_biases_apart, _remember_instruction_sets, trace


class Counter:
    """Adds its input to a tensor; ``extra`` says what else it does."""

    def __init__(self, extra: str = "") -> None:
        self.total, self.extra = torch.zeros(3), extra
        self.calls, self.seen, self.last = 0, [1], None

    def step(self, x: Tensor) -> dict[str, Tensor]:
        if self.extra == "value":
            x = x / x.sum().item()
        elif self.extra == "branch" and x[0] > 0:
            x = -x
        elif self.extra == "count":
            self.calls += 1
        elif self.extra == "list":
            self.seen.append(2)
        elif self.extra == "keep":
            self.last = x * 2  # type: ignore[assignment]
        elif self.extra == "new":
            self.further = 1
        elif self.extra == "numpy":
            x = torch.as_tensor(x.numpy() * 2)
        self.total.add_(x)
        return {"sum": self.total.sum()}


def test_a_graph_does_what_the_function_does_and_tracing_does_nothing() -> None:
    counter, x = Counter(), torch.tensor([1.0, 2.0, 3.0])
    traced = trace(counter.step, [x], [counter])
    assert counter.total.tolist() == [0.0, 0.0, 0.0]
    assert traced.names == ["sum"] and [tensor is counter.total for tensor in traced.held] == [True]
    (total,) = traced.graph(x, *traced.held)
    assert total.item() == 6.0 and counter.total.tolist() == [1.0, 2.0, 3.0]
    other = torch.ones(3)
    assert traced.graph(x, other)[0].item() == 9.0  # the same operations on another's tensor
    assert counter.total.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("value", "reads the value of a tensor"),
        ("branch", "cannot be compiled"),
        ("count", "changes the attribute calls"),
        ("list", "changes the attribute seen"),
        ("keep", "changes the attribute last"),
        ("new", "changes the attribute further"),
        ("numpy", "cannot be compiled"),
    ],
)
def test_what_is_more_than_a_function_of_tensors_is_refused_and_leaves_nothing_behind(extra: str, said: str) -> None:
    counter = Counter(extra)
    with pytest.raises(CannotCompile, match=said) as refused:
        trace(counter.step, [torch.ones(3)], [counter])
    assert "\n" not in str(refused.value)
    assert (counter.calls, counter.seen, counter.last, hasattr(counter, "further")) == (0, [1], None, False)
    assert counter.total.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("stacked", [False, True])
def test_biases_are_added_apart_with_equal_results_and_gradients(stacked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    lead = (2,) if stacked else ()
    weight, bias, x = (torch.randn(*lead, *shape, generator=generator) for shape in ((4, 3), (4,), (5, 3)))

    def loss(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, weight, bias).relu().square().sum()

    def gradients(x: Tensor) -> dict[str, Tensor]:
        of = grad(loss, argnums=(0, 1))
        return dict(zip("wb", (vmap(of) if stacked else of)(weight, bias, x), strict=True))

    traced = trace(gradients, [x])
    _add_biases_apart(traced.graph.graph)
    traced.graph.recompile()
    assert "addmm" not in traced.graph.code
    for found, expected in zip(traced.graph(x, *traced.held), gradients(x).values(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stacked", [False, True])
def test_factors_of_large_products_alone_are_rounded_forward_and_backward(stacked: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias, head = torch.randn(80, 70), torch.randn(90, 70), torch.randn(90), torch.randn(1, 90)

    def step(x: Tensor, weight: Tensor, bias: Tensor, head: Tensor) -> dict[str, Tensor]:
        slopes = grad(lambda weight: F.linear(F.linear(x, weight, bias).sin(), head).sum())(weight)
        return {"output": F.linear(F.linear(x, weight, bias).sin(), head), "slopes": slopes}

    def rounded(left: Tensor, right: Tensor) -> Tensor:
        return (left.bfloat16() @ right.bfloat16()).float()

    hidden = rounded(x, weight.t()) + bias
    expected = {"output": hidden.sin() @ head.t(), "slopes": rounded((head * hidden.cos()).t(), x)}
    inputs = [x, weight, bias, head]
    if stacked:
        inputs = [torch.stack([tensor, tensor]) for tensor in inputs]
    found = GradientStep(vmap(step) if stacked else step, "compiled", list, precision="bf16")(*inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name][0] if stacked else found[name], value, rtol=1e-5, atol=1e-5)
    exact = x @ weight.t() + bias
    assert (hidden - exact).abs().max() > 1e-3  # so that an unrounded product would have failed


def test_kernels_are_made_for_what_shares_memory() -> None:
    def key(first: Tensor, second: Tensor) -> tuple[Any, ...]:
        def step(x: Tensor) -> dict[str, Tensor]:
            first.add_(x)
            return {"sum": second.sum()}

        return trace(step, [torch.ones(3)]).key

    def apart() -> tuple[Tensor, Tensor]:
        return torch.zeros(3), torch.zeros(3)

    whole = torch.zeros(3)
    assert key(*apart()) == key(*apart())
    assert key(*apart()) != key(whole, whole.view(3))


def test_models_that_are_alike_share_what_is_compiled_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(compiled_step, "_KERNELS", {})
    monkeypatch.setattr(compiled_step, "kernels", lambda traced, cpp_wrapper: made.append(traced) or traced.graph)
    first, second = Counter(), Counter()
    for counter in (first, second):
        GradientStep(counter.step, "compiled", list)(torch.ones(3))
    assert len(made) == 1
    assert first.total.tolist() == second.total.tolist() == [1.0, 1.0, 1.0]
    second.total = torch.zeros(3, dtype=torch.float64)
    GradientStep(second.step, "compiled", list)(torch.ones(3))
    assert len(made) == 2
    assert second.total.tolist() == [1.0, 1.0, 1.0]


def test_an_instruction_set_that_worked_is_not_tried_again(tmp_path, monkeypatch):
    from torch._inductor.cpu_vec_isa import VecISA

    tried = []

    def probe(self, library: str) -> bool:
        tried.append(library)
        return library.endswith("works.so")

    monkeypatch.setattr(VecISA, "_probe_load", probe)
    _remember_instruction_sets.__wrapped__()
    works, fails = str(tmp_path / "works.so"), str(tmp_path / "fails.so")
    answers = [VecISA()._probe_load(library) for library in (works, works, fails, fails)]
    assert answers == [True, True, False, False]
    assert tried == [works, fails, fails]
