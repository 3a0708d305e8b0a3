"""Random numbers that a model's code draws from generators outside of torch's operations, or from its own."""

from __future__ import annotations

import functools
import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from ..errors import TraceError
from .reach import TABLES, is_helper, parts_of, tables_in

_OWN = "a generator of its own"


class Draws:
    """The states of the generators that a model's code may draw from while it is traced.

    `own` are generators that the model holds, or its files do.
    """

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self._own = tuple(own)
        self._before = self._states()

    @classmethod
    def of(cls, model: nn.Module) -> Draws:
        """Those of the generators that `model` has of its own, too."""
        return cls(own_generators(model))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Take back what is drawn in here: by code that draws anew whenever the graph runs it."""
        before = self._states()
        try:
            yield
        finally:
            after = self._states()
            if before != after:
                random.setstate(before["Python's random"])
                torch.set_rng_state(torch.frombuffer(bytearray(before["torch"]), dtype=torch.uint8))
                if (numpy := sys.modules.get("numpy")) is not None and "numpy.random" in before:
                    kind, keys, *rest = before["numpy.random"]
                    numpy.random.set_state((kind, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))
                for generator, state in zip(self._own, before[_OWN], strict=True):
                    _set_state(generator, pickle.loads(state))

    def refuse_new_ones(self) -> None:
        """Compare the states with those of now.

        Raises:
            TraceError: something was drawn, which the graph would hold for ever.

        """
        after = self._states()
        drawn = [name for name, state in self._before.items() if state != after[name]]
        if drawn:
            raise TraceError(
                f"the model's code draws from {' and '.join(drawn)} in its forward, which a graph would freeze: "
                "draw them with torch's own functions, or use attach(), which runs the model's own code"
            )

    def _states(self) -> dict[str, Any]:
        states: dict[str, Any] = {"Python's random": random.getstate(), "torch": bytes(torch.get_rng_state().numpy())}
        if (numpy := sys.modules.get("numpy")) is not None:
            kind, keys, *rest = numpy.random.get_state()
            states["numpy.random"] = (kind, keys.tobytes(), *rest)
        # Pickled, since arrays are not equal to one another.
        states[_OWN] = [pickle.dumps(_state(generator)) for generator in self._own]
        return states


@contextmanager
def drawn_apart(devices: Iterable[torch.device], seed: int | None = None) -> Iterator[None]:
    """Let torch's generators of the CPU and of these devices be as they were afterwards, and start from a seed, if any.

    `torch.manual_seed` seeds those of all devices: what draws on another one would go on from there, or, on one that is
    not in use yet, start from there one day. It is for backends that do not show their generators.
    """
    computing = [device for device in dict.fromkeys(devices) if device.type not in ("cpu", "meta")]
    of_devices = [_generator_of(device) for device in computing]
    generators = [torch.default_generator, *(each for each in of_devices if each is not None)]
    before = [generator.get_state() for generator in generators]
    try:
        if seed is not None and None in of_devices:
            torch.manual_seed(seed)
        elif seed is not None:
            for generator in generators:
                generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _generator_of(device: torch.device) -> torch.Generator | None:
    """What is drawn from on a device; None where its backend does not show it."""
    home: Any = getattr(torch, device.type, None)
    if device.type == "mps":
        of_mps: torch.Generator = home._get_default_mps_generator()
        return of_mps
    if not hasattr(home, "default_generators"):
        return None
    held: torch.Generator = home.default_generators[home.current_device() if device.index is None else device.index]
    return held


def own_generators(model: nn.Module) -> list[Any]:
    """The random generators that `model`'s modules, their helpers, or the files of their classes hold."""
    somebodys = [module for module in model.modules() if not type(module).__module__.startswith("torch.")]
    files = {base.__module__ for kind in set(map(type, somebodys)) for base in kind.__mro__} - _NOBODYS
    found = [value for name in files & sys.modules.keys() for value in list(vars(sys.modules[name]).values())]
    for value in [held for module in somebodys for name, held in vars(module).items() if name not in _EVERYONES]:
        found.append(value)
        if type(value) in TABLES:
            found += [part for table in tables_in(value) for part in parts_of(table)]
        elif is_helper(value):
            found += vars(value).values()
    kinds: list[Any] = list(map(type, found))
    return list({id(value): value for value, kind in zip(found, kinds, strict=True) if _is_generator(kind)}.values())


@functools.cache
def _is_generator(kind: Any) -> bool:
    # Of a class, and once for each: torch's answer to `isinstance` is Python code.
    numpy = sys.modules.get("numpy")
    kinds = {torch.Generator, random.Random, *((numpy.random.Generator, numpy.random.RandomState) if numpy else ())}
    # The system's numbers have no state.
    return not kinds.isdisjoint(kind.__mro__) and not issubclass(kind, random.SystemRandom)


# What every module has, and the files of its base classes.
_EVERYONES = frozenset(vars(nn.Module()))
_NOBODYS = frozenset({"builtins", "torch.nn.modules.module"})


def reseed(generators: Iterable[Any]) -> None:
    """Let each draw what every other of its kind draws after this."""
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(0)
        elif not hasattr(generator, "bit_generator"):
            generator.seed(0)
        else:
            # One of somebody's own kind may want more than a seed; then it goes on from where it is.
            with suppress(TypeError):
                generator.bit_generator.state = type(generator.bit_generator)(0).state


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return bytes(generator.get_state().numpy())
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if hasattr(generator, "bit_generator") else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
