"""`Source` -> `nn.Module`. The only code that runs beside the zoos' is what the user named: a module, or a file."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import SourceError
from ..files.imported import own_code, raised
from ..types import Source


def build(
    source: Source,
    *,
    device: torch.device | str | None = None,
    trust: bool = True,
    tell: Callable[[str], None] | None = None,
    fetch: bool = True,
) -> nn.Module:
    """The model that `source` names, with its weights.

    `device="meta"` builds the structure without allocating weights (and loads none). With `source.seed` the random
    weights are repeatable and the caller's random state is left alone. `trust=False` refuses sources whose building
    runs code outside the zoos: it is for sources that were read from a saved file. `tell` is handed one line on what
    was read from `source.checkpoint`. `fetch=False` gives the network that pretrained weights imply (torchvision's
    googlenet and inception_v3 then transform their input), with random weights in it.

    Raises SourceError when the model cannot be imported or built, or its weights cannot be fetched or do not fit.
    """
    if source.kind == "object":
        raise SourceError(f"the {source.name} is a model only its caller has: hand it over, as in load(path, model)")
    if not trust and source.kind in ("module", "file"):
        raise SourceError(
            f"the model comes from {source.name}, whose code runs only when you trust it (trust_source=True)"
        )
    meta = device is not None and torch.device(device).type == "meta"
    if meta:
        fetch, source = False, dataclasses.replace(source, checkpoint=None)
    if not fetch and source.kind != "torchvision":
        source = dataclasses.replace(source, pretrained=False)
    make = _factory(source, fetch=fetch)
    with seeded(source.seed), _quiet(), _told(source):
        model = _on_meta(make) if meta else make()
    if not isinstance(model, nn.Module):
        raise SourceError(f"{source} gave a {type(model).__name__}, not a torch.nn.Module")
    if source.checkpoint:
        from .weights import load_weights

        loaded = load_weights(model, source.checkpoint)
        if tell is not None:
            tell(loaded)
    return model if device is None else model.to(device)


def _factory(source: Source, *, fetch: bool) -> Callable[[], Any]:
    """A function without arguments that makes the model."""
    args = dict(source.args)
    if source.kind == "torchvision":
        from torchvision.models import get_model_builder

        try:
            builder = get_model_builder(source.name)
        except ValueError as error:
            raise SourceError(f"this torchvision has no model {source.name!r}") from error
        # Segmentation and detection networks fetch their backbone's weights unless told not to.
        if not source.pretrained and "weights_backbone" in inspect.signature(builder).parameters:
            args.setdefault("weights_backbone", None)
        if source.pretrained:
            args.setdefault("weights", "DEFAULT")
            if not fetch:
                args["weights"] = _withheld(builder, args["weights"], quantized=bool(args.get("quantize")))
        return lambda: builder(**args)
    if source.kind == "timm":
        import timm

        # `hf-hub:` and `local-dir:` names are looked up by timm itself.
        if ":" not in source.name and not timm.is_model(source.name.partition(".")[0]):
            raise SourceError(f"this timm has no model {source.name[:60]!r}")
        return lambda: timm.create_model(source.name, pretrained=source.pretrained, **args)
    if source.kind == "cifar":
        from . import cifar

        if source.name not in cifar.models():
            raise SourceError(f"there is no CIFAR network {source.name!r}; there are {', '.join(cifar.models())}")
        return lambda: cifar.models()[source.name](**args)
    factory = users_factory(source)
    wanted = _wanted(factory, args)
    if wanted:
        given = " ".join(f"--model-arg {name}=..." for name in wanted)
        raise SourceError(f"{source} wants the arguments {', '.join(wanted)}: give {given} (model_args in Python)")
    return lambda: factory(**args) if args or not isinstance(factory, nn.Module) else factory


def _wanted(factory: Any, args: Mapping[str, Any]) -> list[str]:
    """The names of arguments that a factory cannot do without and was not given."""
    if isinstance(factory, nn.Module):
        return []
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.default is p.empty and p.name not in args]


def users_factory(source: Source) -> Any:
    """What `package.module:factory` or `file.py:factory` names; its module is imported now.

    Raises SourceError when it cannot be imported, or there is no such function in it.
    """
    with _told(source):
        found = own_code(source.name, SourceError)
    if not callable(found):
        raise SourceError(f"{source} is a {type(found).__name__}, not a function")
    return found


@contextlib.contextmanager
def _told(source: Source) -> Iterator[None]:
    """Failures of what the user chose (arguments, own code, a download) become one sentence; others are bugs."""
    try:
        yield
    except SourceError:
        raise
    except (Exception, SystemExit) as error:
        if source.kind in ("module", "file"):
            raise SourceError(f"{source} could not be built: {raised(error)}") from error
        if not source.args and not source.pretrained:
            raise
        lines = str(error).strip().splitlines() or ["no reason given"]
        verb, what = ("built", str(source)) if source.args else ("fetched", f"the weights of {source}")
        raise SourceError(f"{what} could not be {verb}: {type(error).__name__}: {lines[0]}") from error


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let weights that are made in here come of a seed, and the caller's own draws go on as if none were made."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        if torch.get_default_device().type in ("cpu", "meta"):
            # The CPU's generator alone, which is put back: those of other devices are not asked.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torchvision warns that a later release will initialise inception_v3 and googlenet differently."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
        yield


class _Withheld:
    """A member of torchvision's enumerations of weights in all but one thing: what it hands out is the model's own.

    torchvision's builders ask the weights that they are given for more than tensors: googlenet and inception_v3 turn
    their transform of the input on, detection networks compare them with COCO_V1. So they get these, load the network's
    random weights into itself, and go on as ever. Nothing outside the one call is touched, so that other threads may
    build and fetch meanwhile.
    """

    def __init__(self, member: Any) -> None:
        self._member = member

    @property  # type: ignore[misc]  # mypy knows no property here
    def __class__(self) -> type:
        """What `isinstance` asks, and with it torchvision's `verify`."""
        return type(self._member)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._member == other)

    def __hash__(self) -> int:
        return hash(self._member)

    def get_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The state dict of the network that the caller is about to load this into.

        A builder makes the whole after its parts, so it is the last of the caller's local modules.
        """
        modules = [value for value in sys._getframe(1).f_locals.values() if isinstance(value, nn.Module)]
        return modules[-1].state_dict()


def _withheld(builder: Callable[..., Any], weights: Any, *, quantized: bool) -> Any:
    """`weights` as `builder` would take them, but neither fetched nor loaded.

    What is no name of weights comes back as it is: the builder says so. A builder that declares none gets none.
    """
    from torchvision.models import WeightsEnum

    if isinstance(weights, WeightsEnum):
        return _Withheld(weights)
    if not isinstance(weights, str):
        return weights
    parameter = inspect.signature(builder).parameters.get("weights")
    annotation = None if parameter is None else parameter.annotation
    classes = [kind for kind in (annotation, *get_args(annotation)) if inspect.isclass(kind)]
    kinds: list[Any] = [kind for kind in classes if issubclass(kind, WeightsEnum)]
    # Builders of quantizable networks take weights of either kind, and want those that fit `quantize`.
    kinds.sort(key=lambda kind: ("Quantized" in kind.__name__) != quantized)
    if not kinds:
        return None
    name = weights.rpartition(".")[2]
    return _Withheld(kinds[0][name]) if name in kinds[0].__members__ else weights


def _on_meta(make: Callable[[], Any]) -> Any:
    """Build without weights: on the meta device, or where a constructor reads values, with only `empty` tensors there.

    torchvision's regnets compute their widths with tensors, which have no values on the meta device. Weights are made
    by `torch.empty` and then filled, so sending only those to the meta device leaves such arithmetic alone.
    """
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        with _EmptyOnMeta():
            model = make()
        return model.to("meta") if isinstance(model, nn.Module) else model


class _EmptyOnMeta(TorchFunctionMode):
    """Uninitialised tensors are made on the meta device, all others where they belong."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
