"""What one forward pass costs, counted on the meta device: shapes only, no arithmetic, no copy of any weight.

The model runs once with its weights stood in for by meta tensors, under a dispatch mode that sees every ATen operation;
one whose code decides on data may be counted on a run with random values instead. For each operation the mode adds up:

* MACs and FLOPs, by the rules of `flops.py`;
* bytes read and written, as eager PyTorch moves them: every operation reads its operands and writes its result; a view
  moves nothing, and an expanded tensor is read once;
* activations: the elements (and bytes) of every freshly made result, neither views nor in-place results;
* peak bytes: the largest sum of the activations, the input among them, that are alive at one time. Weights and buffers
  are not in it. A value lives as long as the running program holds it, so an in-place operation shows as what it saves.

Whatever runs inside one of the `watched` modules is counted for that module too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from ..errors import TraceError, first_line
from ..tracing.alias import alias
from ..tracing.branches import Branches, taken_run
from ..tracing.caches import nothing_kept
from ..tracing.checkpoints import quiet_checkpoints
from ..tracing.compiled import as_written
from ..tracing.draws import Draws
from ..tracing.inputs import Inputs, tensors_in
from ..tracing.recording import real_inputs
from ..tracing.restoring import as_it_was, aside_in_mode, private_tensors
from ..tracing.turns import threads_in_turn
from . import flops
from .amounts import Cost


@dataclass(frozen=True, slots=True)
class Count:
    """One counted forward pass.

    `total` and `parts` leave out what is held. `parts` has the work inside each watched module and `shapes` the shape
    of what it gave last, `unknown` the operations that no rule covers with how often each ran (their arithmetic is
    missing from `total.flops`, their bytes are not). `of_data` is whether it holds for the values of one run.
    """

    total: Cost
    parts: Mapping[str, Cost]
    peak_bytes: int
    unknown: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    of_data: bool = False


def count(
    model: nn.Module,
    inputs: Inputs | Sequence[Any],
    *,
    watched: Collection[str] = (),
    dtype: torch.dtype | None = None,
) -> Count:
    """Count one eval-mode forward pass of `model` on tensors shaped like `inputs` (a sequence: by position).

    `watched` are paths of submodules to count apart. `dtype` counts the bytes as if the floating-point weights and
    inputs had that type. The model is left as it was, its mode included.

    A model whose shapes hang on values runs on random ones, always the same, with copies of its weights.

    Raises:
        NeedsDataError: such a model in another type, or without weights.
        TraceError: a model that does not take such inputs.

    """
    given = inputs if isinstance(inputs, Inputs) else Inputs(tuple(inputs))
    try:
        return _count(model, given, watched, dtype, real=False)
    except NeedsDataError:
        if dtype is not None or any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise
        return _count(model, given, watched, dtype, real=True)


def _count(
    model: nn.Module, given: Inputs, watched: Collection[str], dtype: torch.dtype | None, *, real: bool
) -> Count:
    def stand_in(tensor: Tensor) -> Tensor:
        to = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return torch.empty_like(tensor, device="meta", dtype=to, requires_grad=False)

    aliased = aside_in_mode(alias(model), "eval")
    aliased = aliased if real else on_meta(aliased, stand_in)
    taken = real_inputs(given, aliased) if real else given.map_tensors(stand_in)
    counter = _Counter(stand_in)
    counter.hold(taken.values)
    shapes: dict[str, tuple[int, ...]] = {}
    with ExitStack() as stack:
        stack.enter_context(as_written())
        stack.enter_context(quiet_checkpoints())
        stack.enter_context(nothing_kept(aliased, real=real))
        stack.enter_context(Draws.of(aliased).undone())
        if real:
            stack.enter_context(as_it_was(aliased, "eval"))
            stack.enter_context(private_tensors(aliased, "_parameters", "_buffers"))
        stack.enter_context(_watching(aliased, watched, counter.owners, shapes))
        try:
            with threads_in_turn(counter.counting), counter.counting():
                taken.given_to(aliased)
        except Exception as error:
            # The model's own code refuses inputs with errors of any kind.
            raise refusal(error, taken) from error
    parts = {path: counter.work.get(path, Cost()) for path in watched}
    return Count(counter.total, parts, counter.peak, dict(counter.unknown), shapes, of_data=real)


def on_meta(aliased: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> nn.Module:
    """Put stand-ins into an alias, one for each tensor however often the alias holds it."""
    made: dict[int, Tensor] = {}
    for module in aliased.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = made.setdefault(id(tensor), stand_in(tensor))
    return aliased


class NeedsDataError(TraceError):
    """What a model costs hangs on the values that it is given."""


def refusal(error: Exception, inputs: Inputs) -> TraceError:
    """Tell a model that needs values from one that does not take inputs of these shapes."""
    reason = first_line(error)
    if isinstance(error, NotImplementedError) or "meta" in reason:
        return NeedsDataError(f"the cost cannot be counted without real data: {reason}")
    return TraceError(f"the model does not run on an input of shape {inputs.sizes}: {reason}")


@contextmanager
def _watching(
    model: nn.Module, paths: Collection[str], owners: list[str], shapes: dict[str, tuple[int, ...]]
) -> Iterator[None]:
    """Keep in `owners` the watched modules that are running, the innermost last; in `shapes`, what they gave."""

    def entering(path: str) -> Callable[..., None]:
        return lambda *_: owners.append(path)

    def leaving(path: str) -> Callable[..., None]:
        def note(*seen: Any) -> None:
            owners.pop()
            shapes.update((path, tuple(given.shape)) for given in tensors_in(seen[-1]))

        return note

    handles = []
    for path in paths:
        module = model.get_submodule(path)
        handles += [module.register_forward_pre_hook(entering(path)), module.register_forward_hook(leaving(path))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Counter(TorchDispatchMode):
    """Adds up every operation that runs under it, and does them on meta tensors."""

    def __init__(self, stand_in: Callable[[Tensor], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Cost()
        self.work: dict[str, Cost] = {}
        self.owners: list[str] = []
        self.unknown: Counter[str] = Counter()
        self.peak = 0
        self._stand_in = stand_in
        self._stood_in: dict[int, tuple[Tensor, Tensor]] = {}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        operation: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        with self:
            # Only under inference mode do composite operations come here whole.
            result = operation.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        args, kwargs = self._on_one_device(args, kwargs)
        result = _result(operation, args, kwargs)
        self._add(operation, args, kwargs, result)
        return result

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add up what runs in here, in whichever thread."""
        with torch.no_grad(), Branches(taken_run), self:
            yield

    def hold(self, values: Any) -> None:
        """Take the tensors in `values` for alive from now on, and note the peak."""
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._alive:
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self._alive = {key: entry for key, entry in self._alive.items() if not _dead(entry[0])}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))

    def _on_one_device(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Stand in for real tensors (constants that a model makes or keeps) where meta ones come along."""
        tensors = list(_tensors((args, kwargs)))
        if not any(tensor.is_meta for tensor in tensors) or all(tensor.is_meta for tensor in tensors):
            return args, kwargs
        args, kwargs = tree_map_only(Tensor, self._once, (args, kwargs))
        return args, kwargs

    def _once(self, tensor: Tensor) -> Tensor:
        """The one stand-in of a real tensor; both are kept, so that its id stays its own."""
        if tensor.is_meta:
            return tensor
        return self._stood_in.setdefault(id(tensor), (tensor, self._stand_in(tensor)))[1]

    def _add(self, operation: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        rest = flops.elementwise(operation, args, result)
        if rest is None:
            self.unknown[str(operation)] += 1
        macs = flops.macs(operation, args, kwargs, result)
        operands = list(_tensors((args, kwargs)))
        known = {tensor.untyped_storage()._cdata for tensor in operands}
        fresh = [tensor for tensor in _tensors(result) if tensor.untyped_storage()._cdata not in known]
        # What `out=` names is written only.
        written = {argument.name for argument in operation._schema.arguments if argument.is_out}
        read = _tensors((args, {name: value for name, value in kwargs.items() if name not in written}))
        moved = not operation.is_view and bool(fresh or operation._schema.is_mutable)
        cost = Cost(
            macs=macs,
            flops=2 * macs + (rest or 0),
            activations=sum(tensor.numel() for tensor in fresh),
            activation_bytes=sum(_bytes(tensor) for tensor in fresh),
            bytes_read=sum(_bytes(tensor) for tensor in read) if moved else 0,
            bytes_written=sum(_bytes(tensor) for tensor in _tensors(result)) if moved else 0,
        )
        self.total += cost
        for path in set(self.owners):
            self.work[path] = self.work.get(path, Cost()) + cost
        self.hold(fresh)


def _result(operation: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the operation gives. An eval norm's shapes are its input's; torch would work them out in Python, slowly."""
    if operation is torch.ops.aten._native_batch_norm_legit_no_training.default and args[0].is_meta:
        return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    return operation(*args, **kwargs)


def _dead(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_iter(values) if isinstance(value, Tensor))


def _bytes(tensor: Tensor) -> int:
    """Bytes that a pass over the tensor touches: an expanded axis lies in memory once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride != 0 or size == 0) * tensor.element_size()
