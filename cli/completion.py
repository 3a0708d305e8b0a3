"""Completion of the command line by the shell: its installation, and the script that does it.

typer does the work. Its own two options only take the shell that they are called from, and end in exit code 1 and a
line on stdout where there is none; so the options are declared here, with the shell's name as a value.
"""

from __future__ import annotations

import subprocess
from typing import Annotated, Any

import typer

OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
VARIABLE = "_ATTN_INJECT_COMPLETE"
"""What the shell's script sets when it asks for completions; typer makes the name of the program's."""


def this_shell(option: str) -> str:
    """The shell that called us.

    Raises BadParameter where none did that can complete.
    """
    import shellingham

    try:
        name = str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        name = ""
    if name not in SHELLS:
        said = f"{name} is not a shell that can complete" if name else "cannot tell which shell this is"
        raise typer.BadParameter(f"{said}; name one of {', '.join(SHELLS)}", param_hint=option)
    return name


def prepare() -> None:
    """Let typer know how each shell wants its completions."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def _checked(ctx: typer.Context, shell: str | None) -> bool:
    """Whether there is something to do, for a shell that typer knows."""
    if shell is None or ctx.resilient_parsing:
        return False
    if shell not in SHELLS:
        raise typer.BadParameter(f"'{shell}' is not one of {', '.join(SHELLS)}")
    return True


def _install(ctx: typer.Context, param: typer.CallbackParam, shell: str | None) -> None:
    if _checked(ctx, shell):
        from typer.completion import install_callback

        try:
            install_callback(ctx, param, shell)
        except (OSError, UnicodeError, subprocess.SubprocessError) as error:
            raise typer.BadParameter(f"{shell} completion could not be installed: {error}") from error


def _show(ctx: typer.Context, param: typer.CallbackParam, shell: str | None) -> None:
    if _checked(ctx, shell):
        from typer.completion import show_callback

        show_callback(ctx, param, shell)


def _option(name: str, **about: Any) -> Any:
    return typer.Option(name, metavar="[SHELL]", is_eager=True, show_default=False, **about)


Install = Annotated[
    str | None, _option(OPTIONS[0], callback=_install, help="Let this shell, or the named one, complete commands.")
]
Show = Annotated[str | None, _option(OPTIONS[1], callback=_show, help="Print the script that does so.")]
