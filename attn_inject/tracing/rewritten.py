"""A module whose class got another `forward`: real code, made from graphs of its own, in which attention is called.

The module becomes an instance of a subclass of its own class, under the same name, so that everything else about it
stays: `isinstance`, children, hooks, state dict, methods. Copies and pickles carry the graphs, from which the class is
made again.
"""

from __future__ import annotations

import hashlib
import linecache
import re
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from .code import code_of
from .face import may_be_fixed, must_be_as_written, parameters_of
from .portable import PortableGraph
from .regions import is_region, restoring_grad_mode

HOLDER = "attention_holder"
"""The name under which a rewritten forward finds attention that the block around its module holds."""

_SELF = "self"


class Writing:
    """What a rewritten class is made from: its own class, a graph for each mode, and the arguments they hold for."""

    def __init__(
        self, base: type[nn.Module], graphs: Mapping[str, fx.Graph], fixed: Mapping[str, Any], source: str | None = None
    ) -> None:
        self.base = base
        self.fixed = {name: value for name, value in fixed.items() if may_be_fixed(name, value)}
        self._graphs = {mode: PortableGraph(graph) for mode, graph in graphs.items()}
        self._made: type[nn.Module] | None = None
        made, self._scope = self._code(graphs)
        # Graphs that were pickled know less of their values.
        self.source = made if source is None else source
        self._has_regions = any(is_region(node.target) for graph in graphs.values() for node in graph.nodes)

    def _code(self, graphs: Mapping[str, fx.Graph]) -> tuple[str, dict[str, Any]]:
        graph = next(iter(graphs.values()))
        places = [str(node.target).lstrip("*") for node in graph.nodes if node.op == "placeholder"]
        fixed = self.fixed
        parameters = re.sub(
            r"inj_fixed\['(\w+)'\]", lambda found: repr(fixed[found[1]]), parameters_of(self.base, places, fixed)
        )
        checks = f'"""What {self.base.__name__}.forward does, with attention in it."""\n' + "".join(
            f"if {name} is not {value!r}: must_be_as_written({name!r}, {name}, {value!r})\n"
            if value is None or isinstance(value, bool)
            else f"if {name} != {value!r}: must_be_as_written({name!r}, {name}, {value!r})\n"
            for name, value in fixed.items()
        )
        source, scope = code_of(graphs, parameters, checks)
        return source, {**scope, "must_be_as_written": must_be_as_written}

    @property
    def made(self) -> type[nn.Module]:
        """The class."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> type[nn.Module]:
        base = self.base
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:8]
        file = f"<{base.__qualname__} with attention {digest}>"
        # Where `inspect.getsource` and tracebacks look for the lines of a file that is none.
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(keepends=True), file)
        scope = dict(self._scope)
        exec(compile(self.source, file, "exec"), scope)
        forward = scope["forward"]
        forward.__qualname__, forward.__module__ = f"{base.__qualname__}.forward", base.__module__
        body = {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "forward": restoring_grad_mode(forward) if self._has_regions else forward,
            "__reduce_ex__": _reduced,
            "attn_inject_writing": self,
        }
        if f"{_SELF}.{HOLDER}." in self.source:
            # Where it is not called, a property would be in torch.jit's way.
            body[HOLDER] = property(_holder)
        return type(base)(base.__name__, (base,), body)

    def __deepcopy__(self, memo: dict[int, Any]) -> Writing:
        return self

    def __reduce__(self) -> Any:
        return _written, (self.base, self._graphs, self.fixed, self.source)


def _written(
    base: type[nn.Module], graphs: Mapping[str, PortableGraph], fixed: Mapping[str, Any], source: str
) -> Writing:
    return Writing(base, {mode: graph.graph() for mode, graph in graphs.items()}, fixed, source)


def _new(writing: Writing) -> nn.Module:
    return writing.made.__new__(writing.made)


def _reduced(self: nn.Module, protocol: Any) -> Any:
    """As the class's own, but for the class, which no other process can import."""
    writing = writing_of(self)
    assert writing is not None
    _make, _arguments, *rest = super(writing.made, self).__reduce_ex__(protocol)
    return (_new, (writing,), *rest)


def _holder(self: nn.Module) -> nn.Module:
    """The block that holds the attention which this module's forward calls."""
    (holder,) = vars(self)[f"_{HOLDER}"]
    return holder  # type: ignore[no-any-return]


def writing_of(module: nn.Module) -> Writing | None:
    """What a module's class was made from, if its forward is rewritten."""
    writing = getattr(type(module), "attn_inject_writing", None)
    return writing if isinstance(writing, Writing) else None


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module is of, or was before its forward was rewritten."""
    writing = writing_of(module)
    return type(module) if writing is None else writing.base


def rewrite_forward(module: nn.Module, writing: Writing, holder: nn.Module | None) -> None:
    """Let `module` run what is written; `holder` has the attention, where that is not the module itself.

    Raises:
        TypeError: the class allows no subclass of it, or none of its instances to change.

    """
    module.__class__ = writing.made
    if holder is not None:
        # Not as a child: it holds this module.
        vars(module)[f"_{HOLDER}"] = (holder,)


def restore_forward(module: nn.Module) -> None:
    """Let `module` run its own class's code again."""
    module.__class__ = own_class(module)
    vars(module).pop(f"_{HOLDER}", None)
