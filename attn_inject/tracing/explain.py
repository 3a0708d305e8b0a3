"""Why a model cannot be followed, in one sentence that says what to do."""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from ..errors import TraceError


def explained(skeleton: nn.Module, error: Exception, traces: Callable[[nn.Module], bool]) -> TraceError:
    """One sentence: the line of the model's code that stopped tracing, and submodules for which `traces` is true."""
    ours = (torch.__path__[0], str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} `{frames[-1].line}`" if frames else ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    scopes = list(_traceable_scopes(skeleton, traces))
    advice = (
        f"; these submodules trace: {', '.join(scopes)} (choose one as the scope)"
        if scopes
        else "; mark the code that cannot be traced with torch.fx.wrap"
    )
    return TraceError(f"{type(skeleton).__name__} cannot be traced: stopped{where} ({reason}){advice}")


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
