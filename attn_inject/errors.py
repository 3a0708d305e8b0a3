"""Everything attn-inject raises on purpose.

A user's mistake is an `AttnInjectError` whose message is one clear sentence: what is wrong and what to do. The command
line prints it on stderr and exits with code 2. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class AttnInjectError(Exception):
    """Base of every error that a user can cause."""


class SourceError(AttnInjectError):
    """A model source that cannot be found, imported or built, or weights that do not fit it."""


class TraceError(AttnInjectError):
    """A model whose graph cannot be read."""


class AttentionError(AttnInjectError):
    """An unknown attention, or settings that it cannot work with."""


class PlanError(AttnInjectError):
    """A plan that is malformed, empty, or does not fit the model it is applied to."""


class RewriteError(AttnInjectError):
    """An edit that cannot be made, or one whose result failed verification."""


class CheckpointError(AttnInjectError):
    """A file that cannot be written, or that is not a sound checkpoint."""
