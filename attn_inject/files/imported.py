"""Somebody's own code by name, `package.module:path` or `file.py:path`: a model's factory, an attention's class.

It runs when it is imported, so it is imported because the caller named it, never on the word of a file that was loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import AttnInjectError

# What a file held when it was run, so that all who name it get the same classes: only those can be pickled.
_run: dict[Path, tuple[bytes, ModuleType]] = {}


def own_code(name: str, error: type[AttnInjectError]) -> Any:
    """What `package.module:path` or `path/to/file.py:path` names; its module is imported now.

    A module is found as `python -m` would find it, in the working folder first; a file is run as `python file.py` would
    run it, once as long as it stays the same: what stands beside it can be imported by it.

    Raises `error` where `name` is not of this form, or there is no such file, module or name; what the code itself
    raises comes out as it is.
    """
    where, colon, path = name.rpartition(":")
    if not colon or not (where.endswith(".py") or all(part.isidentifier() for part in where.split("."))):
        raise error(f"{name!r} names no code: write package.module:name or file.py:name")
    found: Any = _file(Path(where), error) if where.endswith(".py") else _module(where, error)
    for part in path.split("."):
        if not hasattr(found, part):
            raise error(f"there is no '{part}' in {where}")
        found = getattr(found, part)
    return found


def raised(error: BaseException) -> str:
    """What somebody's code ended with, and where: `KeyError: 'depth' (mynets.py, line 7)`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0]} ({Path(last.filename).name}, line {last.lineno})"


def _module(name: str, error: type[AttnInjectError]) -> ModuleType:
    # The folder may have been read before the module was written.
    importlib.invalidate_caches()
    with _on_path(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name and (name == missing.name or name.startswith(f"{missing.name}.")):
                raise error(f"there is no module {name} to import here") from missing
            raise


def _file(path: Path, error: type[AttnInjectError]) -> ModuleType:
    if not path.is_file():
        raise error(f"there is no file {path}")
    home, content = path.resolve(), path.read_bytes()
    if home in _run and _run[home][0] == content:
        return _run[home][1]
    spec = importlib.util.spec_from_file_location(path.stem, home)
    if spec is None or spec.loader is None:
        raise error(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Pickles and dataclasses of the file's classes look their module up by name.
    held = sys.modules.get(path.stem)
    if held is None or getattr(held, "__file__", None) == str(home):
        sys.modules[path.stem] = module
    try:
        with _on_path(home.parent):
            # What was read, and not what Python has kept compiled: that of a second ago passes for the file's of now.
            exec(compile(content, home, "exec", dont_inherit=True), vars(module))  # the caller named it
    except BaseException:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    _run[home] = content, module
    return module


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
