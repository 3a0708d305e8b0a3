"""`attn-inject attentions`: what can be put in, with its parameters at 256 channels."""

from __future__ import annotations

import textwrap

from attn_inject.attention.catalogue import catalogue

from .progress import working


def command() -> None:
    """List the attentions, their parameters at 256 channels, and what they are."""
    with working("listing the attentions (once per installed version)"):
        rows = catalogue()
    width = max(len(name) for name, _, _ in rows)
    head = f"{'':{width}}  at C=256"
    print(head)
    for name, parameters, line in rows:
        row = f"{name:{width}}  {parameters:>8,}  {line}"
        print(textwrap.fill(row, 80, subsequent_indent=" " * (len(head) + 2), break_long_words=False))
    print("\nYour own: --attention package.module:Class. To take attention out: none.")
    print("Options: --option KEY=VALUE; a wrong one is answered with the right ones.")
