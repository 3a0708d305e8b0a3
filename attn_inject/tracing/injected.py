"""`InjectedModule`: one set of weights, two graphs, and the record of what was put in.

A `torch.fx.GraphModule` whose `forward` is the train or the eval graph, chosen by its `training` flag at every call, so
that nested `train()` and `eval()`, copies and compilers all see the right one. The module tree keeps the original's
classes, so that paths, keys and plain attributes stay; only `forward` is the graph's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import update_wrapper
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from ..types import Injection
from .adopting import adopt, hooks_before_a_load
from .alias import with_history
from .face import KEPT, Faced, as_its_class, face_of, forward_of, may_be_fixed, portable_face, say_what_is_lost
from .methods import bind, methods_for_graph
from .portable import PortableGraph
from .regions import is_region, restoring_grad_mode
from .rewritten import Writing, rewrite_forward
from .unheard import hooks_of, say_unheard

_MODES = {True: "train", False: "eval"}
# What `module.compile()` made of this very module: torch's own copies leave it out, too.
_COMPILED = "_compiled_call_impl"
# What belongs to the graph module itself, not to the model it was made from.
_OWN = (
    *("_inj_graphs", "_inj_codes", "_inj_pristine", "_inj_displaced", "_inj_face", "_inj_fixed", "_inj_methods"),
    *("_inj_hooks", "_inj_seen"),
)


class InjectedModule(Faced, fx.GraphModule):
    """A model with attention in it.

    Attributes:
        injection: the record: plan, versions, verification, what could not be kept.

    """

    injection: Injection
    _inj_graphs: dict[str, fx.Graph]
    _inj_codes: dict[str, tuple[Callable[..., Any], str]]
    _inj_pristine: dict[str, fx.Graph]
    _inj_displaced: dict[str, nn.Module]
    _inj_face: type
    _inj_fixed: dict[str, Any]
    _inj_methods: tuple[str, ...]
    _inj_hooks: frozenset[int]

    def __init__(
        self,
        skeleton: nn.Module,
        graphs: Mapping[str, fx.Graph],
        pristine: Mapping[str, fx.Graph],
        constants: Mapping[str, torch.Tensor],
        displaced: Mapping[str, nn.Module],
        injection: Injection,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over `skeleton`'s modules, parameters and attributes (it is not to be used afterwards).

        `graphs` are the rewritten graphs by mode, `pristine` those without attention, `displaced` the modules that
        an attention took the place of, by path; `fixed` are arguments of the forward that the graphs hold for.
        """
        object.__setattr__(self, "_inj_graphs", {})
        super().__init__(nn.Module(), fx.Graph(), class_name=type(skeleton).__name__)
        adopt(self, skeleton, ("_graph", "forward", *_OWN))
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.detach(), persistent=False)
        own: dict[str, Any] = {
            "_inj_graphs": dict(graphs),
            "_inj_pristine": dict(pristine),
            "_inj_displaced": dict(displaced),
            "_inj_codes": {},
            "_inj_face": face_of(skeleton),
            "_inj_fixed": {name: value for name, value in (fixed or {}).items() if may_be_fixed(name, value)},
            "_inj_methods": methods_for_graph(face_of(skeleton), skeleton),
            "_inj_hooks": hooks_of(self.modules()),
            "injection": injection,
        }
        vars(self).update(own)
        for mode, graph in self._inj_graphs.items():
            graph.owning_module = None
            self._compile(mode)
        _install_forward(self)

    # `GraphModule` keeps its graph in `_graph`; here the mode chooses one.
    @property
    def _graph(self) -> fx.Graph:
        graphs: dict[str, fx.Graph] = vars(self).get("_inj_graphs") or {}
        mode = _MODES[bool(vars(self).get("training", True))]
        return graphs[mode] if mode in graphs else next(iter(graphs.values()))

    @_graph.setter
    def _graph(self, graph: fx.Graph) -> None:
        vars(self).setdefault("_inj_graphs", {})[_MODES[bool(vars(self).get("training", True))]] = graph

    def _compile(self, mode: str) -> None:
        source = self._inj_graphs[mode].python_code(root_module="self")
        scope = dict(source.globals)
        exec(compile(source.src, f"<{type(self).__name__} {mode}>", "exec"), scope)
        has_regions = any(is_region(node.target) for node in self._inj_graphs[mode].nodes)
        forward = restoring_grad_mode(scope["forward"]) if has_regions else scope["forward"]
        self._inj_codes[mode] = (forward, source.src)

    def recompile(self) -> Any:
        """Regenerate the code of the current mode's graph, after an edit of it."""
        if not vars(self).get("_inj_codes"):
            return super().recompile()
        for mode in self._inj_graphs:
            self._compile(mode)
        return self._graph.python_code(root_module="self")

    @property
    def code(self) -> str:
        """The Python code of the current mode's graph."""
        return self._inj_codes[self._mode()][1]

    def _mode(self) -> str:
        mode = _MODES[self.training]
        return mode if mode in self._inj_codes else next(iter(self._inj_codes))

    def graph_of(self, mode: str) -> fx.Graph:
        """The graph that runs in `mode`, "train" or "eval"."""
        return self._inj_graphs[mode]

    def pristine_graph_of(self, mode: str) -> fx.Graph:
        """The graph of `mode` as it was before any attention."""
        return self._inj_pristine[mode]

    @property
    def displaced(self) -> Mapping[str, nn.Module]:
        """The modules that an attention took the place of, by path; `remove` puts them back."""
        return MappingProxyType(self._inj_displaced)

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The arguments that the graphs hold for, with their values: they have no place in the graphs."""
        return MappingProxyType(self._inj_fixed)

    def with_graph(self, mode: str, graph: fx.Graph) -> InjectedModule:
        """A copy over the same modules and parameters, which runs `graph` in `mode`; `self` stays as it is."""
        other = copy.copy(self)
        graph.owning_module = None
        own: dict[str, Any] = {"_inj_graphs": {**self._inj_graphs, mode: graph}, "_inj_codes": {}}
        vars(other).update(own)
        for each in other._inj_graphs:
            other._compile(each)
        return other

    def shared_by_aliases(self) -> list[fx.Graph]:
        """What an alias holds too instead of copies: the graphs, which nobody changes in place."""
        return [*self._inj_graphs.values(), *self._inj_pristine.values()]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> InjectedModule:
        memo = {} if memo is None else memo
        # Of the same class, as copies are of any model: what stacks models asks for that.
        other = object.__new__(type(self))
        memo[id(self)] = other
        for module in self.modules():
            memo.update(with_history(module))
        state = {key: value for key, value in vars(self).items() if key not in ("_inj_codes", "injection", _COMPILED)}
        other.__dict__.update(copy.deepcopy(state, memo))
        vars(other)["_inj_codes"] = dict(self._inj_codes)
        vars(other)["injection"] = self.injection
        return other

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` takes instead: the same modules, under a forward that is written down."""
        plain = nn.Module()
        vars(plain).update({name: vars(self)[name] for name in ("_modules", "_parameters", "_buffers", "training")})
        rewrite_forward(plain, Writing(nn.Module, self._inj_graphs, self._inj_fixed), None)
        return plain

    def __copy__(self) -> InjectedModule:
        other = InjectedModule.__new__(InjectedModule)
        other.__dict__.update(vars(self))
        vars(other).pop(_COMPILED, None)
        vars(other)["_load_state_dict_pre_hooks"] = hooks_before_a_load(other, self)
        _install_forward(other)
        return other

    def __reduce__(self) -> Any:
        # Another process gives hooks other numbers.
        state = {key: value for key, value in vars(self).items() if key not in ("_inj_codes", "_inj_seen", _COMPILED)}
        state["_inj_graphs"] = {mode: PortableGraph(graph) for mode, graph in self._inj_graphs.items()}
        state["_inj_pristine"] = {mode: PortableGraph(graph) for mode, graph in self._inj_pristine.items()}
        state["_inj_face"] = portable_face(self._inj_face)
        say_what_is_lost(self._inj_face, state["_inj_face"])
        # A hook that holds what it is a part of could not be put back.
        state["_load_state_dict_pre_hooks"] = hooks_before_a_load(None, self)
        return _rebuild, (state,)

    def __repr__(self) -> str:
        plan = self.injection.plan
        return f"{self._get_name()}({len(plan.insertions)} x {plan.attention})\n{nn.Module.__repr__(self)}"

    def _get_name(self) -> str:
        return "InjectedModule"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            losses = getattr(vars(self).get("injection"), "not_kept", ())
            if any(loss.startswith(f"method {name}()") for loss in losses):
                raise AttributeError(
                    f"{name}() was not kept: it would run the original class's code, without the attention; "
                    "attach() puts attention into the class itself"
                ) from None
            raise


def _kept(name: str) -> Callable[..., Any]:
    def method(self: InjectedModule, *args: Any, **kwargs: Any) -> Any:
        return as_its_class(self, name, *args, **kwargs)

    return update_wrapper(method, getattr(nn.Module, name))


for _name in KEPT:
    setattr(InjectedModule, _name, _kept(_name))


def _install_forward(module: InjectedModule) -> None:
    """Give the instance's own class a `forward` with the model's argument names, which runs the current mode's code.

    And the methods of the model's class that run nothing else.
    """
    graph = next(iter(module._inj_graphs.values()))
    run = "self._inj_codes['train' if self.training else 'eval'][0]"
    type(module).forward = forward_of(
        module._inj_face, graph, module._inj_fixed, run, {"inj_hooks": say_unheard}, first="inj_hooks(self)"
    )
    bind(module, module._inj_face, module._inj_methods)


def _rebuild(state: dict[str, Any]) -> InjectedModule:
    other = InjectedModule.__new__(InjectedModule)
    other.__dict__.update(state)
    vars(other)["_load_state_dict_pre_hooks"] = hooks_before_a_load(other, other)
    for name in ("_inj_graphs", "_inj_pristine"):
        vars(other)[name] = {mode: packed.graph() for mode, packed in state[name].items()}
    vars(other)["_inj_codes"] = {}
    for mode in other._inj_graphs:
        other._compile(mode)
    _install_forward(other)
    return other
