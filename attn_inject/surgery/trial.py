"""A model's own code and its graph, run on the same real values: `passes.py` compares what they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from ..tracing.alias import alias
from ..tracing.hook_tables import FORWARD, hook_tables
from ..tracing.injected import InjectedModule
from ..tracing.inputs import arguments_of, chosen_arguments, fresh, tensors_in
from ..tracing.nodes import value_of
from ..tracing.onlookers import nothing_kept_by_hooks
from ..tracing.trace import MODES
from ..tracing.values import as_given, fetch
from .runs import Runs, without_onlookers, writes_weights

# What gives the same for the same input, and does nothing else: most of the time of a network is in these.
_PURE = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear}


class Trial:
    """An alias of a model, without the hooks that it can do without.

    It has statistics of its own, which each run finds as they were.
    """

    def __init__(self, source: nn.Module, part: InjectedModule) -> None:
        self._model = alias(source)
        inside = [module for module in self._model.modules() if module is not self._model]
        tables = [table for module in inside for table in hook_tables(module, FORWARD)]
        self._hooks = [(table, dict(table)) for table in tables]
        without_onlookers(self._model)
        self._shielded = [(table, dict(table)) for table in tables]
        self._part = part
        self._calls = _Calls()
        self._runs = Runs(self._model, writes=writes_weights(part, map(part.pristine_graph_of, MODES)))

    def statistics(self) -> list[torch.Tensor]:
        """The buffers after the last run."""
        return self._runs.statistics()

    @property
    def keeps(self) -> bool:
        """Whether code has noted something on the model, which its next call may read."""
        return self._runs.keeps

    def of_code(self, mode: str, inputs: tuple[Any, ...], *, calls: int = 1) -> list[torch.Tensor]:
        """What the model's own code gives in the last of so many calls; with hooks, where it does not give what the
        graph gives without them.
        """
        graph = self._part.pristine_graph_of(mode)
        promised = len(list(tensors_in(value_of(next(iter(reversed(graph.nodes)))))))
        try:
            given = self._code(graph, mode, inputs, calls)
        except Exception:
            if not self._hooks:
                raise
        else:
            if len(given) == promised or not self._hooks:
                return given
        _fill(self._hooks)
        return self._code(graph, mode, inputs, calls)

    def of_hooked_code(self, mode: str, inputs: tuple[Any, ...]) -> list[torch.Tensor] | None:
        """What the model's own code gives with all hooks that are in it, the ones that seem to look on too; None where
        there are none, or it does not run so.
        """
        if not self._hooks:
            return None
        _fill(self._hooks)
        try:
            with nothing_kept_by_hooks(self._model):
                return self._code(self._part.pristine_graph_of(mode), mode, inputs, 1)
        except Exception:
            return None
        finally:
            _fill(self._shielded)

    def _code(self, graph: fx.Graph, mode: str, inputs: tuple[Any, ...], calls: int) -> list[torch.Tensor]:
        chosen = chosen_arguments(self._model.forward, self._part.fixed)
        with self._runs.run(mode), self._calls.noted(self._model):
            for _ in range(calls):
                args, kwargs = arguments_of(graph, fresh(inputs))
                given = self._model(*args, **kwargs, **chosen)
            return list(tensors_in(given))

    def of_graph(self, mode: str, inputs: tuple[Any, ...], *, calls: int = 1) -> list[torch.Tensor]:
        """What the graph as it was before any attention gives, in the last of so many calls.

        A convolution that was called the same way in the last run of the code is not computed again.
        """
        graph = self._part.pristine_graph_of(mode)
        for node in graph.nodes:
            if node.op == "get_attr" and not _has(self._model, str(node.target)):
                setattr(self._model, str(node.target), fetch(self._part, str(node.target)))
        interpreter = _Replay(self._model, graph, self._calls)
        with self._runs.run(mode):
            for _ in range(calls):
                given = interpreter.run(*fresh(inputs), enable_io_processing=False)
            return list(tensors_in(given))


def _fill(tables: Iterable[tuple[dict[int, Any], dict[int, Any]]]) -> None:
    for table, hooks in tables:
        table.update(hooks)


def _has(model: nn.Module, path: str) -> bool:
    try:
        fetch(model, path)
    except AttributeError:
        return False
    return True


class _Calls:
    """The calls of pure modules in a run: what they were given, under which settings, and what they gave."""

    def __init__(self) -> None:
        self._made: dict[nn.Module, list[tuple[tuple[Any, ...], torch.Tensor, torch.Tensor]]] = {}

    @contextmanager
    def noted(self, model: nn.Module) -> Iterator[None]:
        """Note the calls within `model`, and forget those of earlier runs."""
        self._made.clear()
        # A hook before the call (a spectral norm) may have a state, which a call that is left out would not change.
        pure = [
            module
            for module in model.modules()
            if type(module) in _PURE and "forward" not in vars(module) and not module._forward_pre_hooks
        ]
        handles = [module.register_forward_hook(self._note) for module in pure]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: nn.Module, args: tuple[Any, ...], made: torch.Tensor) -> None:
        if len(args) == 1:
            # Code may change both in place afterwards.
            self._made.setdefault(module, []).append((_settings(module, args[0]), args[0].clone(), made.clone()))

    def same(self, module: nn.Module, args: tuple[Any, ...]) -> torch.Tensor | None:
        """What a call like this one gave; None if there was none."""
        if len(args) != 1 or module not in self._made:
            return None
        settings = _settings(module, args[0])
        for noted, given, made in self._made[module]:
            if noted == settings and torch.equal(given, args[0]):
                return made.clone()
        return None


def _settings(module: Any, x: torch.Tensor) -> tuple[Any, ...]:
    kind = x.device.type
    autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    return (x.shape, x.stride(), x.dtype, id(module.weight), *autocast)


class _Replay(fx.Interpreter):
    """Runs a graph without computing what is known."""

    def __init__(self, model: nn.Module, graph: fx.Graph, calls: _Calls) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self._calls = calls

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return as_given(*super().fetch_args_kwargs_from_env(n))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = None if kwargs else self._calls.same(self.fetch_attr(target), args)
        return super().call_module(target, args, kwargs) if known is None else known
