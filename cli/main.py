"""`attn-inject`: the group of commands, and the one place where an error becomes a line on stderr and an exit code.

`attn-inject MODEL ...` is the main job: a first word that is no command belongs to it. Commands import what they need
when they run, so that help is instant.
"""

from __future__ import annotations

import copy
import errno
import gc
import os
import shlex
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from attn_inject.errors import AttnInjectError, nearest

from . import attentions, choose, compare, completion, gates, inject, inspect, models, recipes, sites, sweep
from .flags import in_flags
from .interrupts import INTERRUPTED, complain, heeded
from .streams import print_no_more, take_any_sign

USER_ERROR = 2
DEFAULT = "inject"


class Flagged:
    """Says in the help of an option that takes no value that it is a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the command that this is mixed into
        for option in found:
            if getattr(option, "is_flag", False):
                option.metavar = "flag"
        return found


class Command(Flagged, TyperCommand):
    """A command of this program."""


class MainGroup(Flagged, TyperGroup):
    """A group whose help, arguments and completions are those of the main job, unless a command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # What the user typed, for who wants to say it again.
        ctx.obj = shlex.join(["attn-inject", *args])
        own = {"--help", "--version", *completion.OPTIONS, *self.commands}
        if not args and not ctx.resilient_parsing:
            args = ["--help"]
        elif args and args[0].partition("=")[0] not in own:
            if not ctx.resilient_parsing and [word[:1] == "-" for word in args[:2]] == [False, False]:
                raise typer.BadParameter(
                    f"'{args[0]}' is no command{nearest(args[0], [n for n in self.commands if n != DEFAULT])}, "
                    f"and one run takes one model: '{args[1]}' is too much",
                    param_hint="COMMAND",
                )
            args = [DEFAULT, *args]
        elif len(args) == 1 and args[0] in completion.OPTIONS and not ctx.resilient_parsing:
            args = [args[0], completion.this_shell(args[0])]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """What a first word may become: a command, an option of the group, or one of the main job."""
        job = self.commands[DEFAULT]
        with job.make_context(DEFAULT, [], parent=ctx, resilient_parsing=True) as inner:
            found = [*super().shell_complete(ctx, incomplete), *job.shell_complete(inner, incomplete)]
        return list({item.value: item for item in found}.values())

    def collect_usage_pieces(self, _ctx: Any) -> list[str]:
        return ["MODEL --attention NAME [OPTIONS] | COMMAND ..."]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = copy.copy(self)
        shown.params = [*self.commands[DEFAULT].params, *self.params]
        TyperGroup.format_help(shown, ctx, formatter)


app = typer.Typer(
    cls=MainGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Put channel attention into any convolutional network, without touching its code, and see what it costs.",
    epilog="attn-inject resnet50 --attention eca --out model.pt",
)
app.command(DEFAULT, hidden=True, cls=Command)(inject.command)
app.command("sites", cls=Command)(sites.command)
app.command("models", cls=Command)(models.command)
app.command("attentions", cls=Command)(attentions.command)
app.command("recipes", cls=Command)(recipes.command)
app.command("inspect", cls=Command)(inspect.command)
app.command("compare", cls=Command)(compare.command)
app.command("gates", cls=Command)(gates.command)
app.command("choose", cls=Command)(choose.command)
app.command("sweep", cls=Command)(sweep.command)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from attn_inject import __version__

        print(f"attn-inject {__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    install_completion: completion.Install = None,
    show_completion: completion.Show = None,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process: 0, or 2 with one line on stderr for what a user can mend.

    Anything that escapes is a fault of this program and keeps its traceback (exit code 1).
    """
    # Importing torch makes a million objects that are never garbage; at the default thresholds, looking through them
    # again and again takes longer than all of the main job after its imports.
    gc.set_threshold(200_000, 30, 30)
    take_any_sign()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    if completion.VARIABLE in os.environ:
        completion.prepare()
    with heeded() as interrupts, warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            outcome = _outcome(arguments)
        except BaseException as error:
            interrupts.end()
            # What fails after an interrupt fails of it.
            if not isinstance(error, KeyboardInterrupt) and not interrupts.seen:
                raise
            return complain()
        interrupts.end()
        if interrupts.seen:
            return complain()
    return outcome if isinstance(outcome, int) else _complain(outcome)


def _outcome(arguments: list[str]) -> int | str:
    """The exit code of a command that was carried out, or what a user can mend."""
    try:
        code = app(arguments, prog_name="attn-inject", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer makes a code of Ctrl-C
            raise KeyboardInterrupt
    except (AttnInjectError, TyperException) as error:
        return error.format_message() if isinstance(error, TyperException) else in_flags(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return "there is not enough memory for this: try a smaller --batch or --input-size"
    except (BrokenPipeError, SystemExit) as error:
        # Who read us (`| head`) has seen enough; typer makes an exit of it.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        print_no_more()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print_no_more()
        return f"cannot write {error.filename or 'to standard output'}: {error.strerror}"
    return code if isinstance(code, int) else 0


def _is_out_of_memory(error: Exception) -> bool:
    """torch says it with a class of its own on CUDA, and with words on the CPU."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("CUDA out of memory", "DefaultCPUAllocator: can't allocate memory")
    )


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning without the place in our code that it came from."""
    print(f"attn-inject: warning: {in_flags(' '.join(str(message).split()))}", file=sys.stderr)


def _complain(message: str) -> int:
    print(f"attn-inject: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
