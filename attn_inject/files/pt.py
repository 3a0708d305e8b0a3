"""`.pt`: `torch.save` of two entries, the record as text and the state dict, which loads with plain
`torch.load(path, weights_only=True)`.

Before torch sees a file, its zip directory and its pickle are checked here: stored members only (no compression, so no
bombs), none larger than the file, none overlapping, no strange names, checksums right, and a pickle that names nothing
but tensors and containers. torch then reads it with `weights_only=True`; nothing is ever added to its safe globals.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .aligned import all_aligned

KEY = "attn_inject"
"""Under which name every format keeps the record beside the tensors."""

_MAX_PICKLE = 256 * 2**20
_MAX_MEMBERS = 200_000
_STORAGES = (
    "Float",
    "Double",
    "Half",
    "BFloat16",
    "Long",
    "Int",
    "Short",
    "Char",
    "Byte",
    "Bool",
    "ComplexFloat",
    "ComplexDouble",
)
_HARMLESS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage",
    "torch Size",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}


def write_pt(path: Path, text: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the two entries to `path`."""
    try:
        with path.open("wb") as file:
            # Not by name: torch would write the temporary name into the file, and no two files would be the same.
            torch.save({KEY: text, "state_dict": dict(tensors)}, file)
    except RuntimeError as error:
        # torch reports a failing disk as a RuntimeError of its zip writer.
        raise OSError(f"torch could not write the file ({str(error).splitlines()[0]})") from error


def read_pt(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """(record text, tensors) of a `.pt` that attn-inject wrote.

    Raises:
        CheckpointError: it is not one, or not whole, or holds anything but tensors.

    """
    content = load_checked(path)
    if not isinstance(content, dict) or set(content) != {KEY, "state_dict"} or not isinstance(content[KEY], str):
        raise CheckpointError(
            f"{path} is a torch file, but was not written by attn-inject: --checkpoint reads plain weights"
        )
    tensors = as_tensors(content["state_dict"], path)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    with zipfile.ZipFile(path) as archive:
        stored = sum(member.file_size for member in archive.infolist() if "/data/" in member.filename)
    if sum(storages.values()) != stored:
        # Older torch reads past the end of a record that is shorter than its tensor.
        raise CheckpointError(
            f"{path} is damaged: its tensors take {sum(storages.values())} bytes, and it holds {stored}"
        )
    return content[KEY], all_aligned(tensors)


def as_tensors(value: Any, path: object) -> dict[str, torch.Tensor]:
    """`value` as a state dict.

    Raises:
        CheckpointError: it holds anything but named tensors.

    """
    if not isinstance(value, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    ):
        raise CheckpointError(f"{path}: its state dict holds something else than named tensors")
    return dict(value)


def must_be_file(path: Path) -> None:
    """Raise CheckpointError unless `path` is a file with something in it, that may be read."""
    try:
        if path.is_dir():
            raise CheckpointError(f"cannot read {path}: it is a folder")
        if not path.exists():
            raise CheckpointError(f"cannot read {path}: there is no such file")
        if not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is no ordinary file")
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty")
    except OSError as error:
        # A name that is too long, or a folder on the way that may not be entered.
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def load_checked(path: Path) -> Any:
    """`torch.load(path, weights_only=True)` behind the checks of this module, onto the CPU.

    Raises:
        CheckpointError: a check failed.

    """
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError) as error:
        if _is_legacy(path):
            raise CheckpointError(
                f"{path} has the file format of torch before 1.6, whose sizes cannot be checked before they are "
                "believed: load it with torch.load(weights_only=True) and save it anew"
            ) from error
        raise CheckpointError(f"{path} is no whole torch file ({error})") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds something else than tensors, and is not read") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # torch raises whatever its C++ reader or the pickle machine came across; for a user that is a bad file.
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _is_legacy(path: Path) -> bool:
    """Whether a file starts as those of torch before 1.6: a pickle of their magic number."""
    with path.open("rb") as file:
        return file.read(16)[2:15] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def _check_archive(path: Path) -> None:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MAX_MEMBERS:
            raise CheckpointError(f"{path} lists {len(members)} members, more than any model has")
        end = 0
        for member in sorted(members, key=lambda m: m.header_offset):
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError(f"{path}: member {member.filename[:60]!r} is compressed, which torch never does")
            if member.header_offset < end or member.header_offset + member.file_size > size:
                raise CheckpointError(f"{path}: member {member.filename[:60]!r} overlaps another or runs past the end")
            end = member.header_offset + member.file_size
            parts = member.filename.split("/")
            if ".." in parts or member.filename.startswith(("/", "\\")) or "\x00" in member.filename:
                raise CheckpointError(
                    f"{path}: member {member.filename[:60]!r} has a path of a kind that torch never writes"
                )
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise CheckpointError(f"{path} lists a member twice")
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl") or pickles[0].file_size > _MAX_PICKLE:
            raise CheckpointError(f"{path} is no file of torch.save")
        if any("constants" in name or name.endswith(".py") for name in names):
            raise CheckpointError(f"{path} is a TorchScript archive: it holds code, and is not read")
        broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {broken!r} is wrong")
        _check_pickle(archive.read(pickles[0]), path)


def _check_pickle(data: bytes, path: Path) -> None:
    """Refuse a pickle that names anything but tensors and containers."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL" and argument not in _HARMLESS:
                raise CheckpointError(
                    f"{path} names {str(argument)[:80]!r}, which no tensor needs: it may be code, and is not read "
                    "(of a whole model that was pickled, save model.state_dict())"
                )
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                raise CheckpointError(f"{path} builds objects that no tensor needs ({opcode.name}), and is not read")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its table of contents ends early") from error
