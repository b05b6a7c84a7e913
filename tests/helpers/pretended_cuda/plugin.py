"""A pytest plugin: the tests of CUDA run on a device that the CPU plays, for machines without one.

    PRETENDED_CUDA=device.so python -m pytest -p pretended_cuda.plugin tests/unit/optim/test_update.py -k captured

``device.so`` is built from ``device.cpp``. Tensors "on cuda" wrap tensors in memory. What CUDA refuses is refused:
operands on different devices, numpy, and, while a graph is captured, all that waits for the device. A captured graph
is the list of kernels that ran, with the memory they ran on; a replay runs them again, and nothing of the Python around
them. What it cannot show: rounding, speed, races between streams, and torch.compile's kernels, which are left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

assert "torch" not in sys.modules, "torch asks for devices when it is imported: load this plugin before"
ctypes.CDLL(os.environ["PRETENDED_CUDA"], ctypes.RTLD_GLOBAL).add_device()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten  # noqa: E402

import rlopt.optim.compiled_step  # noqa: E402

aten = torch.ops.aten
CPU = torch.device("cpu")
READ_ON_THE_HOST = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.equal.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
sync_debug = {"mode": "default"}
BETWEEN_DEVICES = {aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default}


class Graph:
    """In place of ``torch.cuda.CUDAGraph``."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self._kernels: list[tuple[Any, Any, Any, Any]] = []

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        self._kernels.append((func, args, kwargs, out))

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self._kernels:
            for old, new in zip(tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capture(graph: Graph) -> Iterator[None]:
    """In place of ``torch.cuda.graph``."""
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


def waits(what: Any) -> None:
    """To be called where the host waits for the device."""
    if sync_debug["mode"] == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
    if Graph.capturing is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")


class OnDevice(Tensor):
    """A tensor of the pretended device; ``held`` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        layout: Any = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        out: Any = Tensor._make_wrapper_subclass(cls, held.size(), device=torch.device("cuda:0"), **layout)
        out.held = held
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: OnDevice) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        waits("tolist")
        return self.held.tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    # torch.nn.Module.to swaps parameters for wrappers that have these two.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> OnDevice:
        return OnDevice(parts["held"])


class OneDevice(TorchDispatchMode):
    """Makes tensors on the device, and sees every kernel."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One kernel, on either device."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    given = any(isinstance(x, OnDevice) for x in tensors)
    device = kwargs.get("device")
    if not given and (device is None or torch.device(device).type == "cpu"):
        return func(*args, **kwargs)
    check(func, args, kwargs, tensors, given)
    held = tree_map_only(OnDevice, lambda x: x.held, (args, kwargs | ({"device": CPU} if device is not None else {})))
    if Graph.capturing is not None:
        held = with_scalars_as_they_are(tensors, held)
    out = func(*held[0], **held[1])
    if Graph.capturing is not None:
        Graph.capturing.record(func, *held, out)
    if func is aten._local_scalar_dense.default:
        return out
    if func is aten.copy_.default:
        return args[0]
    if device is not None and torch.device(device).type == "cpu":
        return out.clone()
    out = tree_map_only(Tensor, OnDevice, out)
    if func._schema.name.startswith(("aten::_fused_", "aten::_foreach_")):  # lists, changed in place
        return out
    return return_and_correct_aliasing(func, args, kwargs, out)


def check(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], given: bool) -> None:
    """Raises RuntimeError for what CUDA refuses."""
    if given and func not in BETWEEN_DEVICES and any(not isinstance(x, OnDevice) and x.dim() for x in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")
    masks = func in INDEXING and any(x is not None and x.dtype is torch.bool for x in args[1])
    if func in READ_ON_THE_HOST or masks:
        waits(func)
    if (
        func is aten._to_copy.default
        and torch.device(kwargs.get("device") or args[0].device).type != args[0].device.type
    ):
        waits(func)
    if func is aten.copy_.default and args[0].device != args[1].device and args[1].dim():
        waits(func)


def with_scalars_as_they_are(tensors: list[Tensor], held: Any) -> Any:
    """A kernel is launched with the values that scalars of the host have: a graph keeps them."""
    scalars = {id(x) for x in tensors if not isinstance(x, OnDevice)}
    leaves, shape = tree_flatten(held)
    return tree_unflatten([x.clone() if id(x) in scalars else x for x in leaves], shape)


class Nothing:
    """In place of streams and events: whatever was started has ended."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.wait_stream = self.record = self.synchronize = lambda *_: None


def in_every_thread(run_thread: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(run_thread)
    def on_device(thread: Any) -> None:
        with OneDevice():
            run_thread(thread)

    return on_device


def install() -> None:
    replaced: dict[str, Any] = {
        "CUDAGraph": Graph,
        "graph": capture,
        "Stream": Nothing,
        "Event": Nothing,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Nothing,
        "synchronize": lambda *_: None,
        "set_sync_debug_mode": lambda mode: sync_debug.update(mode=mode),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "mem_get_info": lambda *_: (10**10, 10**10),
        # Its random numbers are the CPU's.
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "get_rng_state_all": list,
        "set_rng_state_all": lambda _: None,
        "manual_seed_all": lambda _: None,
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    torch.Tensor.pin_memory = lambda self, *_: self.clone()  # type: ignore[method-assign,assignment]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([1.0], device="cuda") then reaches the mode
    rlopt.optim.compiled_step.gpu_compiler_found = lambda: False  # type: ignore[assignment]
    threading.Thread.run = in_every_thread(threading.Thread.run)  # type: ignore[method-assign]
    OneDevice().__enter__()


install()
