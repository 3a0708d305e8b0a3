"""Where in the model's code a node was made: what tells one add of a `forward` from another, whatever the object.

Blocks that run the same code make their nodes at the same places, and so do the turns of a loop.
"""

from __future__ import annotations

import sys
from types import FrameType

from .guards import MACHINERY


def _instruction(frame: FrameType) -> int:
    """The instruction of its code that a frame runs.

    Where the interpreter has found that it calls code in Python and goes there by itself, it points behind the
    instruction, into what it remembers of it (zeros, in the code as it was compiled).
    """
    code, at = frame.f_code.co_code, frame.f_lasti
    while at > 0 and not code[at]:
        at -= 2
    return at


def place_in_code() -> str:
    """The calls of the model's own functions that are running, innermost first, down to torch's machinery.

    Each is its function's name and first line, and the instruction that runs: the line alone would not tell the two
    adds of `a + b + c` apart. Names and numbers only, so that what is kept says nothing of the machine.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(MACHINERY):
        frame = frame.f_back
    calls = []
    step = frame
    while not step.f_code.co_filename.startswith(MACHINERY):
        calls.append(f"{step.f_code.co_qualname}:{step.f_code.co_firstlineno}+{_instruction(step)}")
        if step.f_back is None:
            break
        step = step.f_back
    return " < ".join(calls)
