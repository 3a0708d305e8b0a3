"""Python's words in a message, as the command line spells them: `existing='stack'` is `--existing stack`."""

from __future__ import annotations

import re
from dataclasses import fields

from attn_inject.planning.choices import Choices
from attn_inject.reporting.settings import ReportSettings

_NAMES = {"trust_source"} | {field.name for settings in (Choices, ReportSettings) for field in fields(settings)}
_SETTING = re.compile(r"\b([a-z][a-z_]*)=('[^']*'|\"[^\"]*\"|\([^()]*\)|[\w.-]+)")
# Only where it is somebody's to give: a recipe has a key of that name too.
_SIZE = re.compile(r"(?<=\bpass )input_size\b|(?<=\banother )input_size\b")
_WORDS = {"example_inputs": "--example-input", "attach()": "--form module"}


def in_flags(message: str) -> str:
    """The message with everything that the command line has an option for written as that option."""
    message = _SIZE.sub("--input-size", _SETTING.sub(_flag, message))
    for word, flag in _WORDS.items():
        message = message.replace(word, flag)
    return message


def _flag(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in _NAMES:
        return found.group()
    flag = "--" + name.replace("_", "-")
    if value in ("True", "False"):
        return flag if value == "True" else flag.replace("--", "--no-", 1)
    if value.startswith("("):
        separator = "x" if name == "input_size" else ","
        return f"{flag} {separator.join(part.strip() for part in value[1:-1].split(',') if part.strip())}"
    return f"{flag} {value.strip(chr(39) + chr(34))}"
