"""A gradient step as one call: run as it is, compiled for the CPU, or compiled and captured in a CUDA graph.

The step is a function of tensors that updates its state in place and returns named scalars. It must not read a tensor's
value on the host, nor branch on one.
"""

import contextlib
import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rlopt.console.progress import waiting
from rlopt.errors import require
from rlopt.optim.traced import kernels, round_products, trace

Mode = Literal["eager", "compiled", "cuda_graph"]
CompileChoice = Literal["auto", "on", "off"]
Precision = Literal["float32", "bf16"]
"""Of the factors of large matrix products; everything else is float32."""
Statistics = dict[str, Tensor]

COMPILE_PAYS_AFTER = 5_000
"""Gradient steps after which the seconds that compilation takes are earned back, with networks of SAC's size."""


def choose_mode(
    choice: CompileChoice,
    device: torch.device,
    gradient_steps: int,
    pays_after: int = COMPILE_PAYS_AFTER,
    precision: Precision = "float32",
) -> Mode:
    """How a run of ``gradient_steps`` gradient steps on ``device`` takes them.

    "auto" compiles runs of at least ``pays_after`` gradient steps. Where no C++ compiler is found, a step on the CPU is
    taken as it is, and one on a GPU is captured as it is.

    :raises rlopt.errors.ConfigError: for a ``precision`` that only compiled steps have, where they cannot be compiled
    """
    if precision == "bf16":
        missing = "Triton and a C++ compiler" if device.type == "cuda" else "a C++ compiler"
        require(rounding_found(device), f"precision bf16 needs {missing}: install them, or use precision float32")
    elif choice == "off" or (choice == "auto" and gradient_steps < pays_after):
        return "eager"
    if device.type == "cuda":
        return "cuda_graph"
    return "compiled" if device.type == "cpu" and compiler_found() else "eager"


@functools.cache
def compiler_found() -> bool:
    """Whether torch.compile can build kernels for the CPU here: whether the compiler that it takes compiles."""
    named = os.environ.get("CXX")
    commands = [shlex.split(named)] if named else [["g++"], ["clang++"]]
    found = next((command for command in commands if command and shutil.which(command[0])), None)
    if found is None:
        return False
    trial = [*found, "-x", "c++", "-c", "-o", os.devnull, "-"]
    try:
        return subprocess.run(trial, input=b"int f() { return 0; }", capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@functools.cache
def gpu_compiler_found() -> bool:
    """Whether torch.compile can build kernels for the GPU here: whether Triton, and a compiler for it, are there."""
    from torch.utils._triton import has_triton

    return has_triton() and compiler_found()


def rounding_found(device: torch.device) -> bool:
    """Whether steps of ``precision="bf16"`` can be compiled for ``device`` here."""
    return gpu_compiler_found() if device.type == "cuda" else device.type == "cpu" and compiler_found()


MOST_KERNELS = 64
_KERNELS: dict[Hashable, Callable[..., Sequence[Tensor]]] = {}
"""What was compiled in this process, at most :data:`MOST_KERNELS`: models that are alike share it."""


class GradientStep:
    """Calls ``function(*inputs, **settings)`` in the way that ``mode`` says, with equal results.

    Inputs are tensors; another shape or dtype, or another value of a setting, compiles or captures anew. State tensors
    are those that ``function`` refers to itself: they are updated in place and must stay where they are in memory.

    :param function: a function or a method, whose settings are keyword-only arguments; returns named scalars, the same
        names each time
    :param mode: see :func:`choose_mode`
    :param state: gives every tensor that ``function`` changes; capturing a CUDA graph runs the function a few times
        and puts these tensors back afterwards
    :param owners: objects whose attributes the function may read while it is compiled, but must not set
    :param precision: of the factors of large matrix products; "bf16" acts where the step is compiled
    """

    def __init__(
        self,
        function: Callable[..., Statistics],
        mode: Mode,
        state: Callable[[], Sequence[Tensor]],
        owners: Sequence[Any] = (),
        precision: Precision = "float32",
    ) -> None:
        self.mode, self.precision = mode, precision
        self._function = function
        self._state = state
        self._owners = owners
        self._ready: dict[Hashable, Callable[..., Statistics]] = {}

    def __call__(self, *inputs: Tensor, **settings: Hashable) -> Statistics:
        """One step. In a CUDA graph the statistics are overwritten by the next call: copy what is to be kept."""
        with self.ready(inputs, settings) as step:
            return step(*inputs)

    @contextlib.contextmanager
    def ready(self, inputs: Sequence[Tensor], settings: Mapping[str, Hashable]) -> Iterator[Callable[..., Statistics]]:
        """Gives what takes the step on ``inputs``, to be called within.

        :raises CannotCompile: before anything has moved
        """
        key = (tuple((tuple(x.shape), x.dtype, x.device) for x in inputs), tuple(sorted(settings.items())))
        with torch.no_grad():
            step = self._ready.get(key)
            if step is None:
                step = self._ready[key] = self._prepare(inputs, settings)
            yield step

    def _prepare(self, inputs: Sequence[Tensor], settings: Mapping[str, Any]) -> Callable[..., Statistics]:
        function = functools.partial(self._function, **settings)
        if self.mode == "eager":
            return function
        if self.mode == "compiled":
            return self._compiled(function, inputs, cpp_wrapper=True)
        compiled = self._compiled(function, inputs, cpp_wrapper=False) if gpu_compiler_found() else function
        return _CudaGraph(compiled, inputs, self._state())

    def _compiled(
        self, function: Callable[..., Statistics], inputs: Sequence[Tensor], cpp_wrapper: bool
    ) -> Callable[..., Statistics]:
        with waiting("compiling the gradient step (once; what is compiled is kept for later runs)"):
            traced = trace(function, inputs, self._owners)
            if self.precision == "bf16":
                round_products(traced)
            key, held, names = (traced.key, cpp_wrapper), traced.held, traced.names
            if key not in _KERNELS:
                while len(_KERNELS) >= MOST_KERNELS:
                    _KERNELS.pop(next(iter(_KERNELS)))
                _KERNELS[key] = kernels(traced, cpp_wrapper)
        made = _KERNELS[key]

        def call(*inputs: Tensor) -> Statistics:
            return dict(zip(names, made(*inputs, *held), strict=True))

        return call


class _CudaGraph:
    """One captured call: its inputs are copied to fixed addresses, its outputs lie at fixed addresses."""

    def __init__(
        self, function: Callable[..., Statistics], inputs: Sequence[Tensor], state: Sequence[Tensor], warm_up: int = 3
    ) -> None:
        self._inputs = [x.clone() for x in inputs]
        before = [x.clone() for x in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(warm_up):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), torch.no_grad():
            self._outputs = function(*self._inputs)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)

    def __call__(self, *inputs: Tensor) -> Statistics:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs


class ActingCopy:
    """The parameters that actions are computed with, on the CPU.

    On the CPU they are the parameters themselves. On an accelerator they are a copy of those before the last update, so
    that acting never waits for the update that is running.

    :param source: the policy's parameters, which are updated in place
    """

    def __init__(self, source: Sequence[Tensor]) -> None:
        self._source = list(source)
        self._on_cpu = all(tensor.device.type == "cpu" for tensor in self._source)
        if self._on_cpu:
            return
        self._copies = [[tensor.cpu().pin_memory() for tensor in self._source] for _ in range(2)]
        self._arrived = [torch.cuda.Event() for _ in range(2)]
        self._newest = 0

    def follow(self) -> None:
        """To be called after an update was started: starts to copy its result."""
        if self._on_cpu:
            return
        self._newest = 1 - self._newest
        for copy, tensor in zip(self._copies[self._newest], self._source, strict=True):
            copy.copy_(tensor, non_blocking=True)
        self._arrived[self._newest].record()

    def parameters(self) -> list[Tensor]:
        """Parameters to act with, in the order of ``source``."""
        if self._on_cpu:
            return self._source
        older = 1 - self._newest
        self._arrived[older].synchronize()
        return self._copies[older]
