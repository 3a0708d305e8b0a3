"""Why a model cannot be followed, in one sentence that says what to do."""

from __future__ import annotations

import re
import traceback
import types
from collections.abc import Callable, Iterator
from functools import cached_property

from torch import fx, nn

from ..errors import TraceError, first_line
from .guards import MACHINERY
from .proxies import Unfollowable
from .quoting import quoted

_NO_GRADIENT = "does not require grad"
# What fx says of an argument, or an output, that no node may have.
_OBJECT = re.compile(r"argument of type: <(class '[^']*')>")


class SizeError(TraceError):
    """A node that does not run on the inputs that the model was traced with."""

    def __init__(self, node: fx.Node, sizes: str, error: Exception) -> None:
        self.node = node
        self.reason = f"node {node.name} ({node.target}) does not run on an input of shape {sizes}: {first_line(error)}"
        super().__init__(f"{self.reason}; pass another input_size, or example_inputs")


# "1D meta Long tensor" is one, too.
_OF_META = re.compile(r"\bmeta (\w+ )?(tensor|device)")


def is_data_dependent(error: Exception) -> bool:
    """Whether what is missing is data, which no other input size would bring."""
    said = str(error)
    return (
        isinstance(error, (Unfollowable, NotImplementedError))
        or _NO_GRADIENT in said
        or _OF_META.search(said) is not None
    )


class CodeError(TraceError):
    """A line of the model's code that a trace cannot follow, with submodules for which `traces` is true.

    Those are looked for when the sentence is read: another input size may come before.
    """

    def __init__(self, skeleton: nn.Module, error: Exception, traces: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(MACHINERY)]
        where = ""
        if frames:
            number, text = quoted(frames[-1].filename, frames[-1].lineno or 0)
            where = f" at {frames[-1].filename}:{number} `{text}`"
        reason = first_line(error)
        if _NO_GRADIENT in reason:
            reason = "it asks for gradients within its forward"
        elif (held := _OBJECT.match(reason)) is not None:
            reason = f"it hands on an object of {held[1]}, which no graph holds"
        elif is_data_dependent(error) and not isinstance(error, Unfollowable):
            # What torch says of meta tensors is about its own machinery.
            reason = "what it gives depends on numbers in a tensor"
        self.stopped = f"{type(skeleton).__name__} cannot be traced: stopped{where} ({reason})"
        self.is_hopeless = is_data_dependent(error)
        self.scope = ""
        """Where in the user's model the traced one is."""
        self._skeleton = skeleton
        self._traces = traces

    @cached_property
    def _advice(self) -> str:
        within = f"{self.scope}." if self.scope else ""
        scopes = [within + path for path in _traceable_scopes(self._skeleton, self._traces)]
        if not scopes:
            return "mark the code that cannot be traced with torch.fx.wrap"
        return f"these submodules trace: {', '.join(scopes)} (choose one, as in scope='{scopes[0]}')"

    def __str__(self) -> str:
        return f"{self.stopped}; {self._advice}"


def _traceable_scopes(model: nn.Module, traces: Callable[[nn.Module], bool], limit: int = 3) -> Iterator[str]:
    """The outermost submodules with convolutions that trace on their own, at most `limit`, largest first."""

    def search(module: nn.Module, prefix: str, depth: int) -> Iterator[tuple[int, str]]:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if depth > 3 or sum(isinstance(m, nn.modules.conv._ConvNd) for m in child.modules()) < 2:
                continue
            size = sum(p.numel() for p in child.parameters())
            if _has_forward(child) and traces(child):
                yield size, path
            else:
                yield from search(child, f"{path}.", depth + 1)

    found = sorted(search(model, "", 0), reverse=True)
    return iter([path for _, path in found[:limit]])


def _has_forward(module: nn.Module) -> bool:
    return not isinstance(module, (nn.ModuleList, nn.ParameterList)) and (
        type(module).forward is not nn.Module.forward and isinstance(type(module).forward, types.FunctionType)
    )
