"""What `torch.compile` was put around, in a model or in its code, read and compared as it is written.

Compiled code sees no proxy and takes minutes to make, and a compiled block gives other bits than the same block's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from .alias import compiled_forward


@contextmanager
def as_written() -> Iterator[None]:
    """Let what is compiled run as the code that it was made of, in a trace and in a run."""
    import torch._dynamo

    with (
        torch.compiler.set_stance("force_eager"),
        torch._dynamo.config.patch(error_on_nested_fx_trace=False),
    ):
        yield


def is_compiled_wrapper(module: nn.Module) -> bool:
    """Whether the module is what `torch.compile` makes of another one."""
    return "_orig_mod" in module._modules and "dynamo_ctx" in vars(module)


def calling_what_they_wrap(skeleton: nn.Module) -> nn.Module:
    """Let the compiled wrappers in `skeleton` call the module that they hold as every parent calls a child."""
    for module in skeleton.modules():
        if is_compiled_wrapper(module):
            vars(module)["forward"] = module._modules["_orig_mod"]
    return skeleton


def compiled_losses(names: Iterable[str]) -> tuple[str, ...]:
    """What a patched model will not have of the compiled modules of these names."""
    return tuple(f"torch.compile of {name}: compile it again, or the patched model whole" for name in names)


def compiled_in(model: nn.Module, *, wrapped: bool) -> list[str]:
    """The paths of modules that are compiled, or their forward is, and with `wrapped` of those that something wraps."""
    return [
        path or "(model)"
        for path, module in model.named_modules()
        if module._compiled_call_impl is not None
        or compiled_forward(module) is not None
        or (wrapped and is_compiled_wrapper(module))
    ]
