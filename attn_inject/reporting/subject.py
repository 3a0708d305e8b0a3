"""What a report is about: the whole model, or the one submodule that was patched; and the record of what went in.

Where several submodules were patched one after the other, it is the whole, and everything is named by its path there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from ..errors import PlanError
from ..surgery.records import in_whole, records_of
from ..surgery.verify import joined
from ..tracing.injected import InjectedModule
from ..tracing.parts import full_path
from ..types import Check, Guard, Injection, Insertion, Plan, block_name
from .data import BlockDiff
from .diff import block_diffs

Said = TypeVar("Said")


@dataclass(frozen=True)
class Subject:
    """Two models to compare, and what was put into the second; of a model that nobody patched there are no records.

    `records` are the records by the paths of their parts, which are empty where the subject is one part; `scope` is
    that part's own path then.
    """

    title: str
    original: nn.Module
    patched: nn.Module
    records: tuple[tuple[str, Injection], ...]
    scope: str = ""

    @classmethod
    def of(cls, original: nn.Module, patched: nn.Module) -> Subject:
        """What a report on `patched` is about.

        Raises:
            PlanError: `original` has no part where `patched` has one.

        """
        found = records_of(patched)
        title = _title(original, found)
        scopes = {path for path, _ in found}
        if len(scopes) != 1 or scopes == {""}:
            return cls(title, original, patched, found)
        (scope,) = scopes
        return cls(
            title,
            _part(original, scope),
            patched.get_submodule(scope),
            tuple(("", record) for _, record in found),
            scope,
        )

    @property
    def is_parted(self) -> bool:
        """Whether it is a whole of several patched parts."""
        return any(path for path, _ in self.records)

    @property
    def plan(self) -> Plan | None:
        """The plan of a subject that is patched as one."""
        return None if self.is_parted or not self.records else self.records[-1][1].plan

    @property
    def insertions(self) -> tuple[Insertion, ...]:
        """What was put in, by the paths in the subject."""
        return tuple(in_whole(path, each) for path, record in self.records for each in record.plan.insertions)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plans say."""
        return _said((path, record.plan.notes) for path, record in self.records)

    @property
    def not_kept(self) -> tuple[str, ...]:
        """What the patched model lacks."""
        return _said((path, record.not_kept) for path, record in self.records)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The decisions of the model's code, each once."""
        return tuple(dict.fromkeys(guard for _, record in self.records for guard in record.guards))

    @property
    def any_size(self) -> bool:
        return all(record.any_size for _, record in self.records)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all parts: each holds where it holds for all."""
        made = {path: record.verification for path, record in self.records if record.verification is not None}
        return joined(made).checks if made else ()

    @property
    def versions(self) -> dict[str, str]:
        """The versions that patched it: of each package all that did."""
        named: dict[str, list[str]] = {}
        for _, record in self.records:
            for name, version in record.versions.items():
                named.setdefault(name, []).append(version)
        return {name: ", ".join(dict.fromkeys(versions)) for name, versions in named.items()}

    @property
    def diffs(self) -> tuple[BlockDiff, ...]:
        """How the blocks of the graphs differ, those of one shape together."""
        parts = [(path, self.patched.get_submodule(path)) for path in dict(self.records)]
        found: list[BlockDiff] = []
        for path, part in parts:
            for diff in block_diffs(part) if isinstance(part, InjectedModule) else ():
                here = replace(diff, blocks=tuple(full_path(path, block) for block in diff.blocks))
                same = next((i for i, other in enumerate(found) if replace(other, blocks=here.blocks) == here), None)
                if same is None:
                    found.append(here)
                else:
                    found[same] = replace(here, blocks=(*found[same].blocks, *here.blocks))
        return tuple(found)


def _part(original: nn.Module, scope: str) -> nn.Module:
    try:
        return original.get_submodule(scope)
    except AttributeError:
        raise PlanError(f"{scope} is patched, and {type(original).__name__} has no such submodule") from None


def _said(lines: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """The lines of all parts, each once, after the names of the parts that it is about."""
    return tuple(
        f"{', '.join(map(block_name, paths))}: {line}" if any(paths) else line
        for line, paths in _by_value((line, path) for path, said in lines for line in said).items()
    )


def _by_value(pairs: Iterable[tuple[Said, str]]) -> Mapping[Said, list[str]]:
    found: dict[Said, list[str]] = {}
    for value, path in pairs:
        if path not in found.setdefault(value, []):
            found[value].append(path)
    return found


def _title(original: nn.Module, records: Sequence[tuple[str, Injection]]) -> str:
    """The model's name, and what each part got: `UNet + se (encoder) + eca (decoder)`."""
    sources = [str(record.plan.source) for _, record in records if record.plan.source is not None]
    name = next(iter(sources), type(original).__name__)
    changes = _by_value((_change(record.plan), path) for path, record in records)
    scopes = {path for path, _ in records}
    if len(scopes) == 1:
        (scope,) = scopes
        return " ".join([f"{name} ({scope})" if scope else name, *changes])
    return " ".join([name, *(f"{change} ({', '.join(map(block_name, paths))})" for change, paths in changes.items())])


def _change(plan: Plan) -> str:
    return "without its attention" if plan.removals else f"+ {plan.attention}"
