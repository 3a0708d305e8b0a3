"""Channel attention for any convolutional network, put in by graph surgery.

The public names below are loaded on first use, so that `import attn_inject` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# What the type checker sees of the names below; tests/test_public_api.py holds the two together.
if TYPE_CHECKING:
    from .attention.registry import register_attention as register_attention
    from .errors import AttentionError as AttentionError
    from .errors import AttnInjectError as AttnInjectError
    from .errors import CheckpointError as CheckpointError
    from .errors import PlanError as PlanError
    from .errors import RewriteError as RewriteError
    from .errors import SourceError as SourceError
    from .errors import TraceError as TraceError
    from .optimizing.optimized import optimize as optimize
    from .optimizing.training import optimize_training as optimize_training
    from .planning.plan import make_plan as make_plan
    from .reporting.report import Report as Report
    from .reporting.report import report as report
    from .saving.checkpoint import load as load
    from .saving.checkpoint import save as save
    from .sites.reading import find_sites as find_sites
    from .surgery.apply import apply_plan as apply_plan
    from .surgery.apply import remove as remove
    from .surgery.attach import attach as attach
    from .surgery.attach import detach as detach
    from .surgery.inject import inject as inject
    from .surgery.parameters import attention_parameters as attention_parameters
    from .surgery.parameters import attention_state_dict as attention_state_dict
    from .surgery.parameters import freeze_original as freeze_original
    from .surgery.verify import verify as verify
    from .tracing.injected import InjectedModule as InjectedModule
    from .types import Injection as Injection
    from .types import Insertion as Insertion
    from .types import Plan as Plan
    from .types import Site as Site
    from .types import Sites as Sites
    from .types import Skipped as Skipped
    from .types import Source as Source
    from .types import Verification as Verification

__version__ = "0.1.0"

_HOME = {
    "AttentionError": "errors",
    "AttnInjectError": "errors",
    "CheckpointError": "errors",
    "Injection": "types",
    "InjectedModule": "tracing.injected",
    "Insertion": "types",
    "Plan": "types",
    "PlanError": "errors",
    "Report": "reporting.report",
    "RewriteError": "errors",
    "Site": "types",
    "Sites": "types",
    "Skipped": "types",
    "Source": "types",
    "SourceError": "errors",
    "TraceError": "errors",
    "Verification": "types",
    "apply_plan": "surgery.apply",
    "attach": "surgery.attach",
    "attention_parameters": "surgery.parameters",
    "attention_state_dict": "surgery.parameters",
    "detach": "surgery.attach",
    "find_sites": "sites.reading",
    "freeze_original": "surgery.parameters",
    "inject": "surgery.inject",
    "load": "saving.checkpoint",
    "make_plan": "planning.plan",
    "optimize": "optimizing.optimized",
    "optimize_training": "optimizing.training",
    "register_attention": "attention.registry",
    "remove": "surgery.apply",
    "report": "reporting.report",
    "save": "saving.checkpoint",
    "verify": "surgery.verify",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
