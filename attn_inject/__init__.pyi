"""The public names as type checkers see them; tests/test_public_api.py holds them against `__init__.py`."""

from .attention.registry import register_attention as register_attention
from .errors import AttentionError as AttentionError
from .errors import AttnInjectError as AttnInjectError
from .errors import CheckpointError as CheckpointError
from .errors import GuardError as GuardError
from .errors import PlanError as PlanError
from .errors import RewriteError as RewriteError
from .errors import SourceError as SourceError
from .errors import TraceError as TraceError
from .planning.plan import make_plan as make_plan
from .reporting.comparing import Comparison as Comparison
from .reporting.comparing import compare as compare
from .reporting.gates import Gates as Gates
from .reporting.gates import gates as gates
from .reporting.report import Report as Report
from .reporting.report import report as report
from .saving.checkpoint import save as save
from .saving.loading import load as load
from .sites.reading import find_sites as find_sites
from .studying.choose import choose as choose
from .studying.fold import fold as fold
from .surgery.apply import apply_plan as apply_plan
from .surgery.apply import remove as remove
from .surgery.attach import attach as attach
from .surgery.detach import detach as detach
from .surgery.faster import optimize as optimize
from .surgery.faster import optimize_training as optimize_training
from .surgery.inject import inject as inject
from .surgery.parameters import attention_parameters as attention_parameters
from .surgery.parameters import attention_state_dict as attention_state_dict
from .surgery.parameters import freeze_original as freeze_original
from .surgery.timm_registry import register_timm_model as register_timm_model
from .surgery.torchvision_registry import register_torchvision_model as register_torchvision_model
from .surgery.verify import verify as verify
from .sweeping.sweep import sweep as sweep
from .sweeping.table import SweepTable as SweepTable
from .tracing.injected import InjectedModule as InjectedModule
from .types import Injection as Injection
from .types import Insertion as Insertion
from .types import Plan as Plan
from .types import Site as Site
from .types import Sites as Sites
from .types import Skipped as Skipped
from .types import Source as Source
from .types import Verification as Verification

__all__: list[str]
__version__: str
_HOME: dict[str, str]
