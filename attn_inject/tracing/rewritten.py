"""A module whose class got another `forward`: real code, made from graphs of its own, in which attention is called.

The module becomes an instance of a subclass of its own class, under the same name, so that everything else about it
stays: `isinstance`, children, hooks, state dict, methods. Copies and pickles carry the graphs, from which the class is
made again. What else of the class runs its own code runs it around the attention (`own_code`), and so does the
forward where a setting is another now than it was made with.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

import torch
from torch import fx, nn

from ..errors import PlanError
from .code import code_of
from .face import is_of_numbers, literal, may_be_fixed, must_be_as_fixed, must_be_as_written, parameters_of
from .generated import kept_as_rewritten
from .guards import guarded, guarded_in_place
from .must_run import Wanted, must_run
from .nodes import is_named, value_of
from .own_code import (
    Gate,
    OwnCode,
    gates_on,
    may_call_forward,
    methods_around,
    passed_through,
    remove_gates,
    runs_own_code,
)
from .portable import PortableGraph
from .regions import is_region, restoring_grad_mode
from .settings import Setting

HOLDER = "attention_holder"
"""The name under which a rewritten forward finds attention that the block around its module holds."""

WRITING = "attn_inject_writing"
"""The attribute of a rewritten class that has what it was made from."""

_SELF = "self"


class _Unannounced(nn.Module):
    """Keeps a rewritten class out of the registers that its bases keep of their subclasses: it is not one more kind."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if WRITING not in vars(cls):
            super().__init_subclass__(**kwargs)


class Rewritten:
    """A class with another `forward` than the one it is a subclass of; subclasses say how it pickles.

    `own` is how its other methods run.
    """

    def __init__(
        self, base: type[nn.Module], source: str, scope: Mapping[str, Any], own: OwnCode, *, has_regions: bool
    ) -> None:
        self.base = base
        self.source = source
        self.own = own
        self._scope = scope
        self._has_regions = has_regions
        self._made: type[nn.Module] | None = None

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
            "forward": restoring_grad_mode(forward) if self._has_regions else self._finished(forward),
            "__reduce_ex__": _reduced,
            WRITING: self,
            **(methods_around(base, self.own) if self.own != OwnCode() else {}),
            **kept_as_rewritten(base),
        }
        if f"{_SELF}.{HOLDER}." in self.source:
            # Where it is not called, a property would be in torch.jit's way.
            body[HOLDER] = property(_holder)
            body["__prepare_scriptable__"] = _must_not_be_scripted
        # The class of the class, which may be more than `type`.
        make: Any = type(base)
        made: type[nn.Module] = make(base.__name__, (_Unannounced, base), body)
        return made

    def _finished(self, forward: Any) -> Any:
        return forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Rewritten:
        return self


class Writing(Rewritten):
    """A forward that runs a graph for each mode; `fixed` are the arguments, and `settings` the settings, that they
    hold for. With others of these the class's own code runs as `own` says.
    """

    def __init__(
        self,
        base: type[nn.Module],
        graphs: Mapping[str, fx.Graph],
        fixed: Mapping[str, Any],
        settings: Sequence[Setting] = (),
        own: OwnCode = OwnCode(),  # noqa: B008  # frozen
        source: str | None = None,
    ) -> None:
        self.fixed = {name: value for name, value in fixed.items() if may_be_fixed(name, value)}
        self.settings = tuple(settings)
        self._graphs = {mode: PortableGraph(graph) for mode, graph in graphs.items()}
        asks = [setting.differs(_SELF) for setting in self.settings]
        if own != OwnCode() and may_call_forward(base):
            asks.insert(0, f"runs_own_code({_SELF})")
        parameters, checks = _head(base, next(iter(graphs.values())), self.fixed, asks)
        made, scope = code_of(graphs, parameters, checks)
        scope = {name: guarded_in_place if value is guarded else value for name, value in scope.items()}
        scope.update(must_be_as_written=must_be_as_written, **(_OTHERWISE if asks else {}))
        if "inj_fixed[" in made:
            scope["inj_fixed"] = self.fixed
        regions = any(is_region(node.target) for graph in graphs.values() for node in graph.nodes)
        # Graphs that were pickled know less of their values.
        super().__init__(base, source or made, scope, own, has_regions=regions)

    @property
    def identity(self) -> Any:
        """Equal for two that do the same: the code, and what its names mean."""
        return self.base, self.source, self.own, tuple((name, id(self._scope[name])) for name in sorted(self._scope))

    def must_be_the_settings(self, module: nn.Module) -> None:
        """Refuse to run on other settings than the forward was made with.

        Raises:
            ArgumentError: names the first.

        """
        for setting in self.settings:
            must_be_as_fixed(
                setting.asked(type(module).__name__),
                eval(setting.asked(_SELF), {_SELF: module}),
                setting.values["train" if module.training else "eval"],
                "forward with attention",
                "detach() it, and attach with the new setting",
            )

    def __reduce__(self) -> Any:
        return _written, (self.base, self._graphs, self.fixed, self.settings, self.own, self.source)


def own_forward(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """What the class's own forward gives, around the attention, where the rewritten one does not hold.

    Raises:
        ArgumentError: the attention cannot be put around it, or did not run.

    """
    writing = writing_of(module)
    assert isinstance(writing, Writing)
    if not runs_own_code(module) and (writing.own.refused or not writing.own.gates):
        writing.must_be_the_settings(module)
    with writing.own.running(module, "forward()") as all_ran:
        given = writing.base.forward(module, *args, **kwargs)
    if not all_ran():
        writing.must_be_the_settings(module)
    return given


_OTHERWISE = {
    "is_scripting": torch.jit.is_scripting,  # type: ignore[attr-defined]
    "own_forward": own_forward,
    "runs_own_code": runs_own_code,
}


def _name_in_code(base: type[nn.Module]) -> str:
    """The class's name, if it is one in Python: `type(name, ...)` takes any text."""
    return base.__name__ if base.__name__.isidentifier() and not iskeyword(base.__name__) else "Original"


def _head(base: type[nn.Module], graph: fx.Graph, fixed: Mapping[str, Any], asks: Sequence[str]) -> tuple[str, str]:
    """(the parameters of a forward, the lines that come first: to the class's own code if one of `asks` is so, and
    those that hold the fixed arguments against what is written).
    """
    given = [node for node in graph.nodes if node.op == "placeholder"]
    places = [str(node.target).lstrip("*") for node in given]
    asked = parameters_of(base, places, fixed, keeps_defaults=True)
    checks = [f'"""What {_name_in_code(base)}.forward does, with attention in it."""\n']
    if asks:
        named = [*(place for place, node in zip(places, given, strict=True) if is_named(node)), *fixed]
        handed = [_SELF, *(place for place in places if place not in named), *(f"{name}={name}" for name in named)]
        # A script has its settings once and for all.
        checks.append(
            f"if not is_scripting():\n    if {' or '.join(asks)}:\n        return own_forward({', '.join(handed)})\n"
        )
    # Scripts know no dict of ours.
    known = {name: literal(value) or f"inj_fixed[{name!r}]" for name, value in fixed.items()}
    for place, node in zip(places, given, strict=True):
        # A number that is left out goes another way in the class's code, or none.
        if is_of_numbers(number := value_of(node)) and literal(number):
            checks.append(f"if {place} is None: must_be_as_written({place!r}, {place}, {literal(number)})\n")
    for name, value in fixed.items():
        differs = f"{name} {'is not' if value is None or isinstance(value, bool) else '!='} {known[name]}"
        checks.append(f"if {differs}: must_be_as_written({name!r}, {name}, {known[name]})\n")
    return re.sub(r"inj_fixed\['(\w+)'\]", lambda found: known[found[1]], asked), "".join(checks)


class Passing(Rewritten):
    """A forward that runs the class's own, in which what some children return passes through attention.

    `gates` are (the child's path, the attention's name, the permutation to channels first if it needs one). Whatever
    stands in the child's place when it runs is gated. `wanted` are attentions without which what belongs to them must
    not run.
    """

    def __init__(self, base: type[nn.Module], gates: tuple[Gate, ...], wanted: tuple[Wanted, ...] = ()) -> None:
        around = [
            f"passed_through(self.get_submodule({child!r}), self.{gate}" + (f", {order})" if order else ")")
            for child, gate, order in gates
        ]
        if wanted:
            around.insert(0, f"must_run(self, {wanted!r})")
        passed = ", ".join(around)
        name = _name_in_code(base)
        source = (
            "def forward(self, *args, **kwargs):\n"
            f'    """What {name}.forward does, with attention in it."""\n'
            f"    with {passed}:\n"
            f"        return {name}.forward(self, *args, **kwargs)\n"
        )
        scope = {"passed_through": passed_through, "must_run": must_run, name: base}
        super().__init__(base, source, scope, OwnCode(gates), has_regions=False)
        self._wanted = wanted

    def _finished(self, forward: Any) -> Any:
        forward.__signature__ = inspect.signature(self.base.forward)
        return forward

    def __reduce__(self) -> Any:
        return Passing, (self.base, self.own.gates, self._wanted)


def _written(base: type[nn.Module], graphs: Mapping[str, PortableGraph], *held: Any) -> Writing:
    return Writing(base, {mode: graph.graph() for mode, graph in graphs.items()}, *held)


def _new(writing: Rewritten) -> nn.Module:
    return writing.made.__new__(writing.made)


def _reduced(self: nn.Module, protocol: Any) -> Any:
    """As the class's own, but for the class, which no other process can import."""
    writing = writing_of(self)
    assert writing is not None
    parts: Any = super(writing.made, self).__reduce_ex__(protocol)
    _make, _arguments, *rest = parts
    return (_new, (writing,), *rest)


def _holder(self: nn.Module) -> nn.Module:
    """The block that holds the attention which this module's forward calls."""
    (holder,) = vars(self)[f"_{HOLDER}"]
    return holder  # type: ignore[no-any-return]


def _must_not_be_scripted(self: nn.Module) -> nn.Module:
    """Say what torch.jit would not.

    Raises:
        PlanError: always; says what to script instead.

    """
    raise PlanError(
        f"this {type(self).__name__} calls attention that the block around it holds, which no script can follow: "
        "script what inject() gives, which loads the same state dict"
    )


def writing_of(module: nn.Module) -> Rewritten | None:
    """What a module's class was made from, if its forward is rewritten."""
    writing = getattr(type(module), WRITING, None)
    return writing if isinstance(writing, Rewritten) else None


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module is of, or was before its forward was rewritten."""
    writing = writing_of(module)
    return type(module) if writing is None else writing.base


def rewrite_forward(module: nn.Module, writing: Rewritten, holder: nn.Module | None) -> None:
    """Let `module` run what is written; `holder` has the attention, where that is not the module itself.

    Raises:
        TypeError: the class allows no subclass of it, or none of its instances to change.

    """
    module.__class__ = writing.made
    if holder is not None:
        # Not as a child: it holds this module.
        vars(module)[f"_{HOLDER}"] = (holder,)


def restore_forward(module: nn.Module) -> None:
    """Let `module` run its own class's code again, and nothing else with it."""
    remove_gates(module, *gates_on(module))
    module.__class__ = own_class(module)
    vars(module).pop(f"_{HOLDER}", None)
