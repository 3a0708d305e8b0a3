"""`.pt2` and `.onnx`: the eval graph for others to run, with any batch size, and the record beside it.

These files are written, never loaded back: reading a `.pt2` can run what somebody put into it. The record is read from
where it lies, as bytes.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import ONNX_NEEDS, CheckpointError
from ..files.pt import KEY
from ..planning.tables import MAX_TEXT
from ..surgery.runs import Runs, without_onlookers
from ..tracing.alias import alias
from ..tracing.inputs import Inputs, Signature
from .onnx_names import name_tensors

_EXTRA = f"{KEY}.json"
# What a convolutional network may differ by between two runtimes, relative to its largest output.
_ONNX_TOLERANCE = {torch.float16: 2e-2}
_ONNX_TOLERANCE_ELSE = 1e-3
# The first set of ONNX operators whose convolutions and pools take bfloat16.
_ONNX_BFLOAT16 = 22


def write_pt2(path: Path, text: str, model: nn.Module, inputs: Inputs) -> None:
    """Export `model` (in eval mode) with a dynamic batch."""
    program = _export(model, inputs)
    # Not straight to the file: where the disk is full, torch ends the process.
    whole = io.BytesIO()
    torch.export.save(program, whole, extra_files={_EXTRA: text})
    path.write_bytes(whole.getbuffer())


def _export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    inputs = _of_several(model, inputs)
    batch = torch.export.Dim("batch", min=1, max=65_536)
    with_it, by_themselves = _batched(model, inputs)

    def axes(value: Any) -> Any:
        if any(value is each for each in by_themselves):
            return {0: torch.export.Dim.AUTO}
        return {0: batch} if any(value is each for each in with_it) else None

    shapes: Any = tuple(tree_map(axes, value) for value in inputs.positional)
    if inputs.named:
        names = [name for name, _ in Signature.of(model.forward, inputs).positional]
        shapes = dict(zip(names, shapes, strict=True)) | {k: tree_map(axes, v) for k, v in inputs.named.items()}
    try:
        return torch.export.export(model, inputs.positional, dict(inputs.named) or None, dynamic_shapes=shapes)
    except Exception as error:
        # torch.export reports what it cannot do in many types of its own.
        said = str(error).strip().splitlines()[0]
        if said.startswith("Constraints violated"):
            said = f"its code holds for a batch of {inputs.batch} alone"
        raise CheckpointError(f"torch.export cannot export this model: {said}") from error


def _of_several(model: nn.Module, inputs: Inputs) -> Inputs:
    """At least two of each, for torch.export takes an extent of 1 for a fixed one; as they are if the model minds."""
    if inputs.batch != 1:
        return inputs
    several = inputs.map_tensors(lambda each: torch.cat([each, each]) if each.dim() and len(each) == 1 else each)
    return several if _runs(model, several) else inputs


def _batched(model: nn.Module, inputs: Inputs) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(the inputs that have the batch as their first axis, those whose first axis is as long and may be another).

    The first input has the batch; so have others as long, if the model does not run on more of all but this one.
    """
    long = [tensor for tensor in inputs.tensors if tensor.dim() and len(tensor) == inputs.batch]

    def more_but(kept: torch.Tensor) -> Inputs:
        def more(each: torch.Tensor) -> torch.Tensor:
            return torch.cat([each, each[:1]]) if each is not kept and any(each is one for one in long) else each

        return inputs.map_tensors(more)

    by_themselves = [tensor for tensor in long[1:] if inputs.batch > 1 and _runs(model, more_but(tensor))]
    return [tensor for tensor in long if not any(tensor is each for each in by_themselves)], by_themselves


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether it runs on them, seen on an alias, which leaves the model as it is."""
    aliased = without_onlookers(alias(model))
    try:
        with Runs(aliased).run("eval"):
            inputs.given_to(aliased)
    except Exception:  # Whatever the model minds.
        return False
    return True


def read_pt2_record(path: Path) -> str:
    """The record of a `.pt2`, without touching anything else in it.

    torch stores members as they are. A compressed one is refused: `zipfile` unpacks bzip2 and lzma without a bound.

    Raises:
        CheckpointError: there is none.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [m for m in archive.infolist() if m.filename.rpartition("/")[2] in (_EXTRA, KEY)]
            if len(found) != 1 or found[0].file_size > MAX_TEXT:
                raise CheckpointError(f"{path} holds no plan; it was not written by attn-inject")
            if found[0].compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: its plan is compressed, which torch never does")
            return archive.read(found[0]).decode("utf-8")
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # zipfile raises struct.error, EOFError and more beside its own BadZipFile for archives that are cut or forged.
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} is no whole .pt2 file ({said})") from error


def write_onnx(path: Path, text: str, model: nn.Module, inputs: Inputs) -> None:
    """Export `model` (in eval mode) to ONNX with a dynamic batch; compared with onnxruntime if that is installed.

    The weights in the file are the model's to the bit: norms stay norms (runtimes fold them into convolutions
    themselves), and tensors that the eval graph never reads (`num_batches_tracked`) are not in it. onnxruntime has no
    bfloat16 convolution for the CPU, so a bfloat16 file is checked against the standard only.
    """
    try:
        import onnx.checker
        import onnxscript.optimizer  # noqa: F401  # `tidy` needs it
    except ImportError:
        raise CheckpointError(ONNX_NEEDS) from None
    exported = _export(model, inputs)
    try:
        bfloat16 = any(tensor.dtype is torch.bfloat16 for tensor in [*model.parameters(), *inputs.tensors])
        opset = {"opset_version": _ONNX_BFLOAT16} if bfloat16 else {}
        program = torch.onnx.export(exported, dynamo=True, verbose=False, optimize=False, **opset)  # type: ignore[arg-type]
    except Exception as error:
        # The exporter's own errors differ from release to release; what it cannot do is a fact about this model.
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"torch.onnx cannot export this model: {said[0]}") from error
    if program is None:
        raise CheckpointError("torch.onnx.export gave no program for this model")
    tidy(program)
    with torch.no_grad():
        expected = inputs.given_to(model)
    name_tensors(program.model.graph, model, inputs, expected)
    program.model.metadata_props[KEY] = text
    program.save(str(path), external_data=False)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise CheckpointError(f"torch.onnx wrote no sound ONNX for this model: {str(error).splitlines()[0]}") from error
    if not bfloat16:
        _compare(path, inputs, tree_leaves(expected))


def tidy(program: Any) -> None:
    """Fold what is constant, and leave the rest of an ONNX program as torch wrote it.

    For convolutions in three dimensions without a bias torch 2.14 writes one of zeros, with an axis too many, which
    onnxruntime refuses: that is taken out.
    """
    import onnxscript.optimizer

    onnxscript.optimizer.fold_constants(program.model)
    for node in program.model.graph:
        bias = node.inputs[2].const_value if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is not None and len(bias.shape) > 1 and not bias.numpy().any():
            node.resize_inputs(2)
    onnxscript.optimizer.remove_unused_nodes(program.model)


def _compare(path: Path, inputs: Inputs, expected: list[torch.Tensor]) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {slot.name: value.numpy() for slot, value in zip(session.get_inputs(), inputs.tensors, strict=True)}
        given = session.run(None, feeds)
    except Exception as error:
        # Its errors are of many types of its own; what it cannot run is a fact about this file.
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"onnxruntime cannot run what torch.onnx wrote for this model: {said[0]}") from error
    for ours, theirs in zip(expected, given, strict=True):
        apart = float((ours.float() - torch.from_numpy(theirs).float()).abs().max())
        tolerance = _ONNX_TOLERANCE.get(ours.dtype, _ONNX_TOLERANCE_ELSE)
        if not apart <= tolerance * max(float(ours.abs().max()), 1.0):
            raise CheckpointError(f"onnxruntime computes something else than the model: outputs differ by {apart:.3g}")


def read_onnx_record(path: Path) -> str:
    """The record of an `.onnx`, from its metadata.

    Raises:
        CheckpointError: there is none, or the onnx package is not installed.

    """
    try:
        import onnx
    except ImportError:
        raise CheckpointError(
            "reading the plan of an .onnx needs the package onnx: pip install 'attn-inject[onnx]'"
        ) from None
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        # protobuf and onnx raise types of their own for a file that is no model.
        raise CheckpointError(f"{path} is no ONNX model") from error
    found = [item.value for item in model.metadata_props if item.key == KEY]
    if len(found) != 1:
        raise CheckpointError(f"{path} holds no plan; it was not written by attn-inject")
    return str(found[0])
