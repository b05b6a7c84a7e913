"""A function of tensors as the graph of its operations, and the kernels that torch's compiler makes of it.

The function is run once, on tensors without values, and its operations are noted below ``vmap`` and ``grad``.
``torch.compile`` itself interprets the function's bytecode instead, which takes several times as long.
"""

import contextlib
import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from rlopt.errors import ConfigError, one_line

_UNFUSED: dict[Any, Any] = {
    torch.ops.aten.addmm.default: torch.ops.aten.mm.default,
    torch.ops.aten.baddbmm.default: torch.ops.aten.bmm.default,
}
"""Products to which a bias is added, and the products alone."""
LEAST_ROUNDED = 64
"""Products with a side below this one, such as those of a layer of one output, are not worth rounding, nor safe: the
last layer's are the values themselves."""


class CannotCompile(ConfigError):
    """What a gradient step does is more than a function of tensors."""


@dataclass(frozen=True)
class Traced:
    """The operations of a function that returns tensors by name."""

    graph: fx.GraphModule
    """Takes the function's inputs and then ``held``, which it changes in place as the function does."""
    inputs: list[Tensor]
    held: list[Tensor]
    """The tensors that the function refers to besides its inputs."""
    names: list[str]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two functions that the same kernels serve."""
        tensors = [*self.inputs, *self.held]
        # Which of those that are held share memory: kernels are made for that too.
        memory = [x.untyped_storage().data_ptr() for x in self.held]
        shared = tuple((memory.index(place), x.storage_offset()) for place, x in zip(memory, self.held, strict=True))
        return self.graph.code, tuple((tuple(x.shape), x.stride(), x.dtype, str(x.device)) for x in tensors), shared


def trace(function: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor], owners: Sequence[Any] = ()) -> Traced:
    """Notes what ``function`` does to ``inputs`` and to the tensors it holds, without doing it.

    Whatever it reads besides tensors, such as attributes and settings, is a constant of the graph.

    :param owners: objects whose attributes, all but tensors' values, must stay as they are
    :raises CannotCompile: where it needs the value of a tensor, or changes an attribute of an owner
    """
    names: list[str] = []

    def values(*inputs: Tensor) -> list[Tensor]:
        found = function(*inputs)
        names[:] = found
        return list(found.values())

    before = [_attributes(owner) for owner in owners]
    try:
        module = make_fx(values, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    except CannotCompile:
        raise
    except Exception as error:
        # An error of the function itself shows its own traceback when the step is then taken as it is.
        raise cannot_compile(one_line(error)) from error
    finally:
        changed = [name for owner, old in zip(owners, before, strict=True) for name in _put_back(owner, old)]
    if any(node.target is torch.ops.aten._local_scalar_dense.default for node in module.graph.nodes):
        raise cannot_compile("it reads the value of a tensor")
    held = _lift_constants(module.graph, module)
    if changed or any(isinstance(tensor, FakeTensor) for tensor in held):
        raise cannot_compile(f"it changes the attribute {changed[0]}" if changed else "it keeps what it computes")
    module.recompile()
    return Traced(module, list(inputs), held, names)


def kernels(traced: Traced, cpp_wrapper: bool) -> Callable[..., Sequence[Tensor]]:
    """Compiled code that does what ``traced.graph`` does, to other tensors too.

    :param cpp_wrapper: whether kernels are called from C++, on the CPU only: it saves a thirtieth of a step, and other
        threads of Python run meanwhile
    :raises CannotCompile: where torch, or the C++ compiler, fails
    """
    import torch._inductor  # takes seconds

    _remember_instruction_sets()
    if cpp_wrapper:
        _add_biases_apart(traced.graph.graph)
        traced.graph.recompile()
    inputs: list[Any] = [*traced.inputs, *traced.held]
    try:
        made: Any = torch._inductor.compile(traced.graph, inputs, options={"cpp_wrapper": cpp_wrapper})
    except Exception as error:  # of torch, or of the C++ compiler
        raise cannot_compile(one_line(error)) from error
    compiled: Callable[..., Sequence[Tensor]] = made
    return compiled


@functools.cache
def _remember_instruction_sets() -> None:
    """Lets torch try each of the processor's vector instruction sets once, not in every process: it takes 2 seconds.

    Torch builds a small library for each and loads it in a process of its own. It keeps the library, whose name comes
    from compiler, flags and version, but not that it was loaded.
    """
    from torch._inductor.cpu_vec_isa import VecISA

    probe = getattr(VecISA, "_probe_load", None)
    if probe is None:  # another version of torch
        return

    def probe_once(self: VecISA, library: str) -> bool:
        loaded = Path(f"{library}.loaded-{platform.node()}")
        if loaded.exists():
            return True
        found: bool = probe(self, library)
        if found:
            with contextlib.suppress(OSError):
                loaded.touch()
        return found

    VecISA._probe_load = probe_once  # type: ignore[method-assign, assignment]


def round_products(traced: Traced) -> None:
    """Rounds the factors of large float32 products, forward and backward, to bfloat16; all else stays as it is."""
    graph, cast = traced.graph.graph, torch.ops.aten._to_copy.default
    _add_biases_apart(graph)
    for node in [node for node in graph.nodes if node.op == "call_function" and node.target in _UNFUSED.values()]:
        left, right = (factor.meta["val"] for factor in node.args)
        sides = (*left.shape[-2:], right.shape[-1])
        if left.dtype != torch.float32 or min(sides) < LEAST_ROUNDED:
            continue
        with graph.inserting_before(node):
            factors = tuple(graph.call_function(cast, (factor,), {"dtype": torch.bfloat16}) for factor in node.args)
            rounded = graph.call_function(node.target, factors)
            product = graph.call_function(cast, (rounded,), {"dtype": torch.float32})
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    traced.graph.recompile()


def cannot_compile(reason: str) -> CannotCompile:
    """The refusal of a step, to be raised by it or for it."""
    return CannotCompile(f"the gradient step cannot be compiled ({reason}): use --compile off")


def _attributes(owner: Any) -> dict[str, tuple[Any, Any]]:
    """Each attribute with what is in it, if it is a container."""
    return {name: (value, _content(value)) for name, value in vars(owner).items()}


def _content(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict | set) else None


def _put_back(owner: Any, before: dict[str, tuple[Any, Any]]) -> list[str]:
    """Gives the owner its attributes of before; names of those that had changed."""
    changed = [name for name in vars(owner) if name not in before]
    for name in changed:
        delattr(owner, name)
    for name, (value, content) in before.items():
        now = vars(owner).get(name)
        if now is not value or (content is not None and _parts(value) != _parts(content)):
            changed.append(name)
            if content is not None:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(content)
            vars(owner)[name] = value
    return changed


def _parts(container: Any) -> list[int]:
    items = container.items() if isinstance(container, dict) else ((item,) for item in container)
    return [id(part) for item in items for part in item]


def _lift_constants(graph: fx.Graph, module: fx.GraphModule) -> list[Tensor]:
    """Makes the tensors that a graph holds further inputs of it; the tensors in their order."""
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    held: list[Tensor] = []
    inputs: dict[int, fx.Node] = {}
    constants = [node for node in graph.nodes if node.op == "get_attr"]
    for node in constants:
        tensor: Any = getattr(module, str(node.target))
        if id(tensor) not in inputs:
            with graph.inserting_after(last):
                last = inputs[id(tensor)] = graph.placeholder(f"held_{len(held)}")
            last.meta = dict(node.meta)
            held.append(tensor)
        node.replace_all_uses_with(inputs[id(tensor)])
        graph.erase_node(node)
    for name in {str(node.target) for node in constants}:
        delattr(module, name)
    return held


def _add_biases_apart(graph: fx.Graph) -> None:
    """Adds the bias of a layer after its product, in one pass with what follows: addmm would write it beforehand."""
    for node in [node for node in graph.nodes if node.op == "call_function" and node.target in _UNFUSED]:
        if node.kwargs:
            continue
        bias, left, right = node.args
        with graph.inserting_before(node):
            product = graph.call_function(_UNFUSED[node.target], (left, right))
            product.meta = dict(node.meta)
            total = graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
        node.replace_all_uses_with(total)
        graph.erase_node(node)
