"""Modes that the model's own code switches while it runs: `self.teacher.eval()` within a forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache

from torch import nn

from .proxies import Unfollowable


class Modes:
    """The modes of `modules` before any code runs; none of them has been switched then."""

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        self._before = {id(module): module.training for module in modules}
        # Whether each that has run was as before when it first did.
        self._run: dict[nn.Module, bool] = {}

    def are_switched_in(self, module: nn.Module) -> bool:
        """Whether it, or a part of it, is in another mode now, and asks for its mode."""
        return any(map(self._is_switched, module.modules() if module._modules else (module,)))

    def has_run(self, module: nn.Module, *, whole: bool) -> None:
        """Take notice of a module that runs now; `whole`, with its parts."""
        for part in module.modules() if whole and module._modules else (module,):
            self._run.setdefault(part, not self._is_switched(part))

    def refuse_later_ones(self) -> None:
        """Refuse what has run in the mode of the whole and would run in another one in the next call.

        Raises:
            Unfollowable: there is such a module.

        """
        if any(was_as_before and self._is_switched(module) for module, was_as_before in self._run.items()):
            raise Unfollowable("it switches the mode of a layer that has run, for the calls to come")

    def _is_switched(self, module: nn.Module) -> bool:
        before = self._before.get(id(module), module.training)
        if before is module.training:
            return False
        return _asks_for_its_mode(type(module))  # type: ignore[arg-type]  # a class has a hash


@cache
def _asks_for_its_mode(kind: type) -> bool:
    """Whether the class's own methods ask whether it is in training (norms, dropout; not a convolution)."""
    methods = (
        method
        for base in kind.__mro__
        if base is not nn.Module and issubclass(base, nn.Module)
        for method in map(inspect.unwrap, filter(inspect.isfunction, vars(base).values()))
    )
    return any("training" in method.__code__.co_names for method in methods)
