"""What tells a function or an object of the caller's from others of its name, as text that is the same anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Of larger tensors (weights of classes are small) the shape has to do.
_MOST = 10_000


def described(value: Any) -> str:
    """The settings of an object, the code of a class or a function and what is bound to it, the file of a
    `file.py:name`; nothing of what these call by name.

    >>> from functools import partial
    >>> from attn_inject.files.described import described
    >>> described(lambda: 1) == described(lambda: 2), described(partial(max, 1)) == described(partial(max, 1))
    (False, True)
    """
    return "\n".join(_lines(value))


def _lines(value: Any) -> Iterator[str]:
    yield f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, str):
        yield value
        file = Path(f"{value.partition('.py:')[0]}.py")
        yield file.read_text(errors="replace") if ".py:" in value and file.is_file() else ""
    elif isinstance(value, type):
        yield from (
            f"{name} {_shown(held.__code__)}" for name, held in vars(value).items() if hasattr(held, "__code__")
        )
    elif isinstance(value, partial):
        yield from _lines(value.func)
        yield from (_shown(part) for part in (*value.args, *sorted(value.keywords.items())))
    elif isinstance(code := getattr(value, "__code__", None), CodeType):
        yield _shown(code)
        yield from (_shown(part) for part in (value.__defaults__, value.__kwdefaults__))
        yield from (_shown(cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell))
    elif hasattr(value, "__dict__"):
        yield from (f"{name} {_shown(held)}" for name, held in sorted(vars(value).items()))
        if isinstance(value, nn.Module):
            yield from (f"{name} {_shown(held)}" for name, held in value.state_dict().items())


def _shown(value: Any) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, CodeType):
        return f"{value.co_code!r} {value.co_names} {_shown(value.co_consts)}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, torch.Tensor):
        numbers = value.detach().flatten().tolist() if value.numel() <= _MOST and not value.is_meta else ""
        return f"{value.dtype} {tuple(value.shape)} {numbers}"
    return f"{type(value).__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty one raises
    except ValueError:
        return False
    return True
