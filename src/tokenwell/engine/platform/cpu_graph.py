"""Work on the CPU that was recorded once and can be made again without the Python code that led to it.

Calls of generated code are collected in lists that generated code goes through; between them torch's operations are made again
into the tensors that they gave. Only operations of a table can be recorded: those whose results' shapes do not depend on
numbers. What was read by the host while recording stays as it was.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokenwell.engine.kernels import cpu_pool

Step = Callable[[], object]

# By the operation's name: what makes it again with `out`.
_INTO: dict[str, Callable[..., Any]] = {
    "aten.add.Tensor": torch.add, "aten.sub.Tensor": torch.sub, "aten.mul.Tensor": torch.mul, "aten.div.Tensor": torch.div,
    "aten.cos.default": torch.cos, "aten.sin.default": torch.sin, "aten.neg.default": torch.neg, "aten.tanh.default": torch.tanh,
    "aten.sigmoid.default": torch.sigmoid, "aten.eq.Scalar": torch.eq, "aten.where.self": torch.where,
    "aten.cat.default": torch.cat, "aten.index_select.default": torch.index_select,
}  # fmt: skip
# Those that have no such form, or none that is as fast: they are made anew and copied.
_ANEW = {
    "aten.embedding.default", "aten.gelu.default", "aten.silu.default", "aten.linear.default", "aten.rms_norm.default",
    "aten.isin.Tensor_Tensor", "aten.masked_fill.Scalar", "aten.index.Tensor",
}  # fmt: skip
# Those that may copy, or give a view of what they got.
_COPIES = {"aten.to.dtype", "aten.to.dtype_layout", "aten.reshape.default", "aten.flatten.using_ints", "aten.contiguous.default",
           "aten.clone.default", "aten._to_copy.default"}  # fmt: skip
_IN_PLACE = {"aten.div_.Tensor", "aten.mul_.Tensor", "aten.tanh_.default", "aten.add_.Tensor", "aten.copy_.default"}
_EMPTY = {"aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default"}


class CpuGraph:
    """Recorded steps; the tensors that they read and write are kept."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._calls: list[tuple[int, array[int], int]] = []  # of generated code, since the last step
        self._kept: list[object] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What is computed meanwhile is recorded, and computed. Raises RuntimeError for what cannot be recorded."""
        with cpu_pool.listening(self._note), _Operations(self):
            yield
        self._flush()

    def replay(self) -> None:
        """Compute again with what the same tensors hold now."""
        for step in self._steps:
            step()

    def _note(self, address: int, context: array[int], threads: int) -> None:
        self._calls.append((address, context, threads))

    def _flush(self) -> None:
        if self._calls:
            self._steps.append(_program(self._calls))
            self._calls = []

    def take(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an operation and record it."""
        result = function(*args, **kwargs)
        self._kept.append((result, args))
        if name in _EMPTY or (name not in _IN_PLACE and isinstance(result, torch.Tensor) and _is_view(result, args)):
            return result
        step = _again(name, function, args, kwargs, result)
        if step is None:
            raise RuntimeError(f"{name} cannot be recorded on a CPU")
        self._flush()
        self._steps.append(step)
        return result


class _Operations(TorchDispatchMode):
    """Hands torch's operations to a graph."""

    def __init__(self, graph: CpuGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return self._graph.take(str(func), func, args, kwargs or {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep its compiler away from the method above, torch would import it, which takes a second."""
        return False


def _is_view(result: torch.Tensor, args: tuple[Any, ...]) -> bool:
    """Whether an operation that changes nothing gave another view of what it got."""
    place = result.untyped_storage().data_ptr()
    given = [one for one in args if isinstance(one, torch.Tensor)]
    return any(one.untyped_storage().data_ptr() == place for one in given)


def _again(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Step | None:
    """What makes an operation again, with the same result; None when nothing does."""
    if name in _IN_PLACE:
        return functools.partial(function, *args, **kwargs)
    if not isinstance(result, torch.Tensor):
        return None
    if name in _COPIES:
        source = args[0]
        return functools.partial(result.view(source.shape).copy_, source)
    if name in _INTO:
        return functools.partial(_INTO[name], *args, **kwargs, out=result)
    if name not in _ANEW or (name == "aten.index.Tensor" and any(one is not None and one.dtype == torch.bool for one in args[1])):
        return None
    return lambda: result.copy_(function(*args, **kwargs))


def _program(calls: list[tuple[int, array[int], int]]) -> Step:
    """The calls, made one after the other by generated code."""
    table = array("q", [field for address, context, threads in calls for field in (address, context.buffer_info()[0], threads)])
    fork: Any = cpu_pool.thread_pool()
    context = array("q", [table.buffer_info()[0], len(calls), ctypes.cast(fork, ctypes.c_void_p).value or 0])
    address = context.buffer_info()[0]
    run, code = _runner()
    kept = (list(calls), table, context, code)

    def step(kept: object = kept) -> None:
        run(address)

    return step


@functools.cache
def _runner() -> tuple[Callable[[int], None], object]:
    """A function that makes calls, and what owns its code."""
    from tokenwell.engine.kernels import cpu_calls_code

    address, engine = cpu_calls_code.compile_runner(cpu_pool.host())
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), engine
