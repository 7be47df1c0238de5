"""ONNX Runtime on the processor, in float32 and in INT8: the artifact is the content of an ONNX file."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunas.runtime.device import processor_name
from tunas.runtime.onnx_file import SUFFIX, onnx_bytes
from tunas.runtime.registry import INT8, Arrays, Conversion, Runtime, Session

WARNINGS_AND_WORSE = 3
"""ONNX Runtime's severity of errors: its warnings are about how it fuses, not about what is wrong."""


def _quantized(network: Any, examples: Any, conversion: Conversion) -> bytes:
    """Post-training static quantisation by `onnxruntime.quantization`: pairs of quantise and dequantise (QDQ) around
    every operator that has an INT8 form; weights symmetric per output channel, activations uint8 per tensor."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.examples = iter(conversion.calibration)

        def get_next(self) -> dict[str, Any] | None:
            arrays = next(self.examples, None)
            return None if arrays is None else dict(zip(conversion.inputs, arrays, strict=True))

    with tempfile.TemporaryDirectory() as directory, _quiet():
        exported, prepared, quantized = (Path(directory) / f"{name}{SUFFIX}" for name in ("a", "b", "c"))
        exported.write_bytes(onnx_bytes(network, examples, conversion))
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return quantized.read_bytes()


class _quiet:
    """Keeps the quantiser's advice, which this module follows, from the terminal."""

    def __enter__(self) -> None:
        self.disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        logging.disable(self.disabled)


def _open(content: bytes, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = WARNINGS_AND_WORSE
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def place(arrays: Arrays) -> dict[str, Any]:
        return dict(zip(names, arrays, strict=True))

    return Session(lambda feed: session.run(None, feed)[0], place)


def _files(content: bytes) -> Mapping[str, bytes]:
    return {SUFFIX: content}


def _read(files: Mapping[str, bytes]) -> bytes:
    return files[SUFFIX]


_SETTINGS: dict[str, Any] = {
    "files": _files,
    "read": _read,
    "suffix": SUFFIX,
    "package": "onnxruntime",
    "requires": ("onnx", "onnxruntime"),
}
RUNTIMES = (
    Runtime("onnxruntime", onnx_bytes, _open, processor_name, **_SETTINGS),
    Runtime("onnxruntime-int8", _quantized, _open, processor_name, INT8, **_SETTINGS),
)
