"""ONNX Runtime on the processor, in float32 and in INT8: the artifact is the content of an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tunas.runtime.device import processor_name
from tunas.runtime.onnx_file import SUFFIX, onnx_bytes
from tunas.runtime.quiet import without_warnings
from tunas.runtime.registry import INT8, Arrays, Conversion, Runtime, Session, one_file

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

    with tempfile.TemporaryDirectory() as directory, without_warnings():  # it gives advice that is followed here
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


_SETTINGS: dict[str, Any] = {
    **one_file(SUFFIX),
    "package": "onnxruntime",
    "requires": ("onnx", "onnxruntime"),
}
RUNTIMES = (
    Runtime("onnxruntime", onnx_bytes, _open, processor_name, **_SETTINGS),
    Runtime("onnxruntime-int8", _quantized, _open, processor_name, INT8, **_SETTINGS),
)
