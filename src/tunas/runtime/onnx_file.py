"""A network as an ONNX file, which ONNX Runtime and OpenVINO both start from."""

from __future__ import annotations

import inspect
import io
import warnings
from typing import Any

from tunas.runtime.pytorch import exported
from tunas.runtime.registry import Conversion

OPSET = 17
"""Version of the ONNX operators: the first with all that our layers need, and read by every runtime since 2022."""
SUFFIX = ".onnx"


def onnx_bytes(network: Any, examples: Any, conversion: Conversion) -> bytes:
    """The content of an ONNX file of a network in eval mode.

    Uses torch's tracing exporter, which folds batch norms and takes a tenth of a second; it needs only `onnx`. A torch
    that no longer has it exports through `torch.export`, which needs `onnxscript` as well.
    """
    import torch

    write: Any = torch.onnx.export
    axes = {name: {0: "batch"} for name in (*conversion.inputs, conversion.output)}
    names = {"input_names": list(conversion.inputs), "output_names": [conversion.output]}
    traced = {"opset_version": OPSET, "dynamic_axes": axes if conversion.dynamic_batch else None}
    choosable = "dynamo" in inspect.signature(write).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = io.BytesIO()
            write(network, examples, content, **names, **traced, **({"dynamo": False} if choosable else {}))
            return content.getvalue()
        except (TypeError, ValueError, ImportError, AttributeError, NotImplementedError):
            if not choosable:
                raise
            return _through_torch_export(network, examples, conversion, names)


def _through_torch_export(network: Any, examples: Any, conversion: Conversion, names: dict[str, Any]) -> bytes:
    import torch

    program = torch.onnx.export(exported(network, examples, conversion), dynamo=True, verbose=False, **names)
    assert program is not None
    return program.model_proto.SerializeToString()
