"""Every new module made and run once on the meta device, on a map like the one it will get, before anything is edited.

What the meta device cannot say (a module that looks at values) is asked on the model's own device, and where the model
has none, left to the checks of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..attention.base import Attention
from ..attention.gating import unmixed
from ..attention.registry import module_for
from ..errors import AttentionError, first_line
from ..sites.placement import Edit
from ..tracing.nodes import value_of
from ..types import Insertion

Shape = tuple[int, ...]


class Trials:
    """One attention tried at the sites of one model; sites that are alike run once."""

    def __init__(self, model: nn.Module, attention: Attention) -> None:
        self._attention = attention
        tensors = (*model.parameters(), *model.buffers())
        self._device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._writes: dict[tuple[Any, ...], bool] = {}
        self._made: dict[int, nn.Module] = {}

    def module(self, insertion: Insertion, edit: Edit) -> nn.Module:
        """The insertion's module on the meta device, which has run there.

        Raises:
            AttentionError: settings that the attention cannot work with, a forward that fails on such a map, or one
                that changes its shape; names the module's place.

        """
        try:
            with torch.device("meta"):
                module = module_for(insertion, self._attention)
            self._must_be_new(module)
            shapes = _shapes(edit)
            key = (insertion.channels, shapes, _frozen(insertion.options))
            if shapes is not None and key not in self._writes:
                self._writes[key] = self._must_run(insertion, module, *shapes)
            if self._writes.get(key) and edit.readers is not None:
                raise AttentionError(
                    f"{self._attention.name} writes into the map that it is given, which others read there too: let it "
                    "give a new one (x * gate, and not x.mul_(gate))"
                )
        except AttentionError as error:
            raise AttentionError(f"{insertion.module}: {error}") from error
        return module

    def _must_be_new(self, module: nn.Module) -> None:
        name = self._attention.name
        if id(module) in self._made:
            raise AttentionError(f"{name} gives the same module for several sites: let it make a new one for each")
        if any(is_lazy(parameter) for parameter in (*module.parameters(), *module.buffers())):
            raise AttentionError(
                f"{name} has parameters that get their sizes in a first run (torch's Lazy layers): make them from the "
                "number of channels, which it is given"
            )
        self._made[id(module)] = module

    def _must_run(self, insertion: Insertion, module: nn.Module, given: Shape, wanted: Shape) -> bool:
        """Whether it writes into what it is given."""
        name = self._attention.name
        try:
            return _writes_what_it_keeps(name, module, given, wanted, "meta")
        except AttentionError:
            raise
        except Exception as error:
            # The meta device refuses more than real ones do, and says so.
            on_meta = self._device.type == "meta"
            failed = error if on_meta else self._really(insertion, given, wanted)
            if isinstance(failed, bool):
                return failed
            if on_meta and (isinstance(failed, NotImplementedError) or "meta" in str(failed)):
                return False
            raise AttentionError(
                f"{self._attention.name} does not run on the map {_named(given)} there: {_said(failed)}; "
                "pass another input_size, give it other options, or leave such sites out"
            ) from failed

    def _really(self, insertion: Insertion, given: Shape, wanted: Shape) -> Exception | bool:
        """What a real module ends in on real values, or whether it writes into them."""
        with torch.random.fork_rng(devices=[]):
            try:
                with self._device:
                    module = module_for(insertion, self._attention)
                return _writes_what_it_keeps(self._attention.name, module, given, wanted, self._device)
            except AttentionError:
                raise
            except Exception as error:
                return error


def _shapes(edit: Edit) -> tuple[Shape, Shape] | None:
    """(what the module gets, what it must give), channels first; None where no shapes are known."""
    made = value_of(edit.replaced if edit.replaced is not None else edit.value)
    value = value_of(edit.value)
    if not isinstance(value, torch.Tensor) or not isinstance(made, torch.Tensor):
        return None
    given = tuple(value.movedim(edit.channel_axis, 1).shape)
    return given, tuple(made.movedim(edit.channel_axis, 1).shape)


def _writes_what_it_keeps(
    name: str, module: nn.Module, given: Shape, wanted: Shape, device: torch.device | str
) -> bool:
    """Whether a module, which must give what is wanted, writes into what it is given."""
    # Without an identity start's mixing, which would speak of its own sum; nobody else has the module.
    inner = unmixed(module).eval()
    # Tensors of an inference mode do not count what is written into them.
    with torch.inference_mode(mode=False), torch.no_grad():
        x = torch.zeros(given, device=device)
        before = x._version
        _must_keep(name, inner(x), given, wanted)
        return x._version != before


def _must_keep(name: str, out: Any, given: Shape, wanted: Shape) -> None:
    if not isinstance(out, torch.Tensor):
        raise AttentionError(f"{name} gives a {type(out).__name__}, and an attention must give one tensor")
    if tuple(out.shape) != wanted:
        must = "must keep the shape" if wanted == given else f"must give {_named(wanted)} there"
        raise AttentionError(f"{name} makes {_named(tuple(out.shape))} of the map {_named(given)}: an attention {must}")


def _said(error: Exception) -> str:
    kind, line = type(error).__name__, first_line(error)
    return line if line == kind else f"{kind}: {line}"


def _named(shape: Shape) -> str:
    return "x".join(str(extent) for extent in shape)


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, repr(value)) for key, value in sorted(options.items()))
