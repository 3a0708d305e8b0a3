"""Channel attention for any convolutional network, put in by graph surgery.

The public names below are loaded on first use, so that `import attn_inject` imports no torch. For type checkers the
same names stand in `__init__.pyi`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AttentionError": "errors",
    "AttnInjectError": "errors",
    "CheckpointError": "errors",
    "Comparison": "reporting.comparing",
    "Injection": "types",
    "Gates": "reporting.gates",
    "InjectedModule": "tracing.injected",
    "Insertion": "types",
    "Plan": "types",
    "PlanError": "errors",
    "Report": "reporting.report",
    "GuardError": "errors",
    "RewriteError": "errors",
    "Site": "types",
    "Sites": "types",
    "Skipped": "types",
    "Source": "types",
    "SourceError": "errors",
    "SweepTable": "sweeping.table",
    "TraceError": "errors",
    "Verification": "types",
    "apply_plan": "surgery.apply",
    "attach": "surgery.attach",
    "attention_parameters": "surgery.parameters",
    "attention_state_dict": "surgery.parameters",
    "choose": "studying.choose",
    "compare": "reporting.comparing",
    "detach": "surgery.detach",
    "find_sites": "sites.reading",
    "fold": "studying.fold",
    "freeze_original": "surgery.parameters",
    "gates": "reporting.gates",
    "inject": "surgery.inject",
    "load": "saving.loading",
    "make_plan": "planning.plan",
    "optimize": "surgery.faster",
    "optimize_training": "surgery.faster",
    "register_attention": "attention.registry",
    "register_timm_model": "surgery.timm_registry",
    "register_torchvision_model": "surgery.torchvision_registry",
    "remove": "surgery.apply",
    "report": "reporting.report",
    "save": "saving.checkpoint",
    "sweep": "sweeping.sweep",
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
