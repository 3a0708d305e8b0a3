"""Inputs as a command line names them: sizes and types instead of tensors. No torch in here until they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import TraceError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .inputs import Inputs

DTYPES = (
    *("float32", "float16", "bfloat16", "float64"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", "complex128"),
)
_MAX_ELEMENTS = 2**40


@dataclass(frozen=True)
class InputForm:
    """The size of one input, with or without the batch, and its type; None is the type of the model's weights."""

    size: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True)
class InputForms:
    """Inputs by name. A dotted name is a place in a structure: `batch.image` in a dict, `maps.0` in a list."""

    forms: Mapping[str, InputForm]

    def alternatives(self, model: nn.Module, batch: int) -> Iterator[Inputs]:
        """What the forms may mean for `model`, the likelier first.

        Sizes are those of one input, as `input_size` is. Where the model does not run on such a batch, they are those
        of all: in a batch of `batch` where each says a batch of one, and at last as they stand.

        Raises:
            TraceError: a name that is none of the model's inputs, one that is missing, or a size that no network takes.

        """
        from .inputs import dtype_of

        self._check(model)
        own = dtype_of(model)
        sizes = {name: form.size for name, form in self.forms.items()}
        yield self._made({name: (batch, *size) for name, size in sizes.items()}, own)
        if all(size[:1] == (1,) for size in sizes.values()):
            yield self._made({name: (batch, *size[1:]) for name, size in sizes.items()}, own)
        yield self._made(sizes, own)

    def _check(self, model: nn.Module) -> None:
        import inspect

        parameters = inspect.signature(model.forward).parameters.values()
        usual = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names = [p.name for p in usual]
        asked = dict.fromkeys(name.partition(".")[0] for name in self.forms)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        unknown = [] if takes_any else [name for name in asked if name not in names]
        if unknown:
            hint = nearest(unknown[0], names) or f": its inputs are {', '.join(names) or 'not named'}"
            raise TraceError(f"the model takes no input '{unknown[0]}'{hint}")
        missing = [p.name for p in usual if p.default is p.empty and p.name not in asked]
        if missing:
            raise TraceError(f"the model also needs the input {', '.join(missing)}: give a size for each")
        for name, form in self.forms.items():
            if min(form.size, default=1) < 1 or prod(form.size) > _MAX_ELEMENTS:
                raise TraceError(f"no network takes an input of shape {'x'.join(map(str, form.size))} ({name})")

    def _made(self, sizes: Mapping[str, tuple[int, ...]], own: torch.dtype) -> Inputs:
        import torch

        from .inputs import Inputs

        made: dict[str, Any] = {}
        for name, size in sizes.items():
            *homes, last = name.split(".")
            table = made
            for home in homes:
                table = table.setdefault(home, {})
            dtype = self.forms[name].dtype
            table[last] = torch.empty(size, dtype=getattr(torch, dtype) if dtype else own, device="meta")
        return Inputs(named={name: _structure(value) for name, value in made.items()})


def _structure(value: Any) -> Any:
    """A dict whose keys count from 0 is a list."""
    if not isinstance(value, dict):
        return value
    parts = {key: _structure(part) for key, part in value.items()}
    return list(parts.values()) if list(parts) == [str(i) for i in range(len(parts))] else parts
