"""What a caller hands over, made into a model that can be traced: wrappers taken off, lazy modules materialised.

What cannot be read is refused here with a sentence that says what to do; what will not be kept in a patched model is
named, so that nothing is dropped in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim.swa_utils import AveragedModel

from ..errors import TraceError
from .compiled import compiled_in, compiled_losses, is_compiled_wrapper
from .face import KEPT, face_of, is_answered
from .inputs import Inputs
from .methods import methods_for_graph

# Forward hooks of modules that stay whole in the graph run there as before.
_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and compiled wrappers.

    Raises:
        TraceError: for what is no module, and for scripted, quantized and other modules whose code cannot be read.

    """
    model = taken_out(model)
    for name, module in model.named_modules():
        where = f"submodule {name}" if name else "the model"
        if any(isinstance(tensor, FakeTensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise TraceError(
                f"{where} has fake tensors (FakeTensorMode), which run nowhere else: build it under "
                "torch.device('meta') instead"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{where} is a scripted module, whose code cannot be traced: pass the module it was scripted from"
            )
        if _is_quantized(module):
            raise TraceError(f"{where} is quantized: inject into the float model and quantize the result")
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise TraceError(
                f"{where} is wrapped ({type(module).__name__}): unwrap it first, wrap the patched model after"
            )
    return model


def must_have_forward(model: nn.Module) -> None:
    """Refuse what only holds modules.

    Raises:
        TraceError: it cannot be run.

    """
    kind = type(model)
    if kind.forward is nn.Module.forward and "forward" not in vars(model) and kind.__call__ is nn.Module.__call__:
        raise TraceError(f"{kind.__name__} has no forward, so that it cannot be run: pass a module that takes an input")


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def taken_out(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, AveragedModel and compiled wrappers, whatever it is.

    Raises:
        TraceError: for what is no module.

    """
    must_be_module(model)
    return _taken_off(model)[0]


def must_be_module(model: object) -> None:
    """Refuse what is no module, and name the modules that it holds.

    Raises:
        TraceError: if so.

    """
    # It may say of itself that it is one.
    if not issubclass(type(model), nn.Module):
        held = [f".{name}" for name, value in getattr(model, "__dict__", {}).items() if isinstance(value, nn.Module)]
        hint = f": pass the module that it holds, {' or '.join(held)}" if held else ""
        raise TraceError(f"expected an nn.Module, got {type(model).__name__}{hint}")


def wrapped_by(model: nn.Module) -> tuple[str, ...]:
    """What `unwrap` takes off, as what a patched model is without."""
    return _taken_off(model)[1]


def _taken_off(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """(the module inside wrappers, what is lost with them)."""
    losses: list[str] = []
    while True:
        if isinstance(model, _WRAPPERS):
            losses.append(f"{type(model).__name__} around the model: put it around what is returned")
            model = model.module
        elif is_compiled_wrapper(model):
            losses += compiled_losses(["(model)"])
            model = model.get_submodule("_orig_mod")
        else:
            return model, tuple(losses)


def _is_quantized(module: nn.Module) -> bool:
    """Whether it computes in integers; `FloatFunctional`, the float stand-in of quantizable models, does not."""
    homes = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    if not type(module).__module__.startswith(homes):
        return False
    from torch.ao.nn.quantized import FloatFunctional

    return not isinstance(module, FloatFunctional)


def materialised(model: nn.Module, inputs: Inputs | None) -> nn.Module:
    """The model itself, or, where it holds lazy modules, a copy that has seen `inputs` once.

    Raises:
        TraceError: the model is lazy and there are no inputs to run.

    """
    if not any(isinstance(m, LazyModuleMixin) and m.has_uninitialized_params() for m in model.modules()):
        return model
    if inputs is None:
        raise TraceError("the model has lazy modules without shapes: run it once on an input, or pass example_inputs")
    import copy

    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied(*inputs.positional, **inputs.named)
    return copied


def parameter_hooks(model: nn.Module) -> list[str]:
    """The hooks on parameters, which a patched model has not: its parameters are others over the same memory."""
    return [
        f"parameter hook on {name}: register it again, on the patched model's"
        for name, parameter in model.named_parameters()
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    ]


def _replaced(face: type) -> list[str]:
    """The public methods of every module that the class has its own of, but for those that a graph has from it."""
    kept = ("forward", "extra_repr", *KEPT)
    public = (name for name in dir(nn.Module) if not name.startswith("_") and name not in kept)
    return [name for name in public if getattr(face, name, None) is not getattr(nn.Module, name)]


def not_kept(
    model: nn.Module,
    graphs: Iterable[fx.Graph],
    fixed_arguments: Mapping[str, Any],
    followed: Collection[int] = (),
) -> tuple[str, ...]:
    """What the patched model will not have: methods, hooks on modules that the graph runs through, fixed arguments.

    `followed` are the keys of hooks whose work is in the graphs.
    """
    whole = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}
    losses: list[str] = []
    for name, module in model.named_modules():
        if name and not any(name == path or name.startswith(f"{path}.") for path in whole):
            losses += [
                f"{title} on {name}: register it again, on a module that the graph calls"
                for attribute, title in _HOOKS.items()
                if not (getattr(module, attribute, None) or {}).keys() <= set(followed)
            ]
    losses += compiled_losses(compiled_in(model, wrapped=True))
    losses += parameter_hooks(model)
    defaults = {name: p.default for name, p in inspect.signature(model.forward).parameters.items()}
    for name, value in fixed_arguments.items():
        is_default = defaults.get(name, inspect.Parameter.empty) is value
        why = "its default" if is_default else "what it was given when it was read"
        losses.append(f"argument {name}={value!r}: fixed at {why}")
    base, face = set(dir(nn.Module)), face_of(model)
    if not issubclass(face, fx.GraphModule):
        base.update(methods_for_graph(face, model))
        methods = [
            name
            for name, value in inspect.getmembers(face)
            if callable(value) and not name.startswith("_") and name not in base and not is_answered(face, name)
        ]
        losses += [f"method {name}(): it runs the class's own code" for name in methods]
        if replaced := [f"{name}()" for name in _replaced(face)]:
            losses.append(f"the class's own {', '.join(replaced)}: what is there is torch's")
        if face.__call__ is not nn.Module.__call__:
            losses.append("the class's own __call__(): a call gives what forward() gives; attach() keeps it")
    return tuple(losses)
