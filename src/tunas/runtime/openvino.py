"""OpenVINO on the processor, in float32 and in INT8: the artifact is its intermediate representation, .xml and .bin."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunas.runtime.device import processor_name
from tunas.runtime.onnx_file import onnx_bytes
from tunas.runtime.quiet import without_warnings
from tunas.runtime.registry import INT8, Conversion, Runtime, Session

SUFFIX, WEIGHTS = ".xml", ".bin"
"""Of the two files: the graph, and its weights."""


def _converted(network: Any, examples: Any, conversion: Conversion) -> Any:
    """The model with its constants folded. What ONNX adds as a bias, OpenVINO reads as a dozen operations that work out
    the bias's shape: two thirds of all, half of the file's text, and between them NNCF recognises no depthwise
    convolution that has an INT8 form.

    Folded by this pass and not by `openvino.convert_model`: that leaves out biases of zero as well, so that networks
    with fresh weights, which are timed, would come out otherwise than trained ones; and it reports its use to its
    makers.
    """
    import openvino
    from openvino.passes import ConstantFolding, Manager

    model = openvino.Core().read_model(onnx_bytes(network, examples, conversion))
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


def _quantized(network: Any, examples: Any, conversion: Conversion) -> Any:
    """Post-training static quantisation by NNCF: weights symmetric per output channel, activations per tensor and
    asymmetric (its preset `mixed`, made for activations that are not symmetric, such as hard-swish), biases
    corrected.

    An activation's range is the whole range that was seen. NNCF's own choice, the mean over images of each one's range,
    cuts off what few images have: it cost ProxylessNAS-Mobile 1.9 points on the digits, where the whole range costs
    0.3. What NNCF leaves in float32, squeeze-and-excite, computes in float32 from weights in INT8, per output channel
    and symmetric too.
    """
    with without_warnings(), contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars of its own
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        calibration = nncf.Dataset([arrays if len(arrays) > 1 else arrays[0] for arrays in conversion.calibration])
        quantized = nncf.quantize(
            _converted(network, examples, conversion),
            calibration,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(conversion.calibration),
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )
        return nncf.compress_weights(quantized, mode=nncf.CompressWeightsMode.INT8_SYM)


def _open(model: Any, threads: int) -> Session:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return Session(lambda feed: request.infer(feed)[0], lambda arrays: dict(enumerate(arrays)))


def _files(model: Any) -> Mapping[str, bytes]:
    import openvino

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"model{SUFFIX}"
        openvino.save_model(model, path, compress_to_fp16=False)
        return {suffix: path.with_suffix(suffix).read_bytes() for suffix in (SUFFIX, WEIGHTS)}


def _read(files: Mapping[str, bytes]) -> Any:
    """The model, through files on disk: with weights that are given in memory a model only shares that memory
    (`ov::Core::read_model`), which may be gone when it runs. For the same reason the files are not mapped."""
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"model{SUFFIX}"
        for suffix, content in files.items():
            path.with_suffix(suffix).write_bytes(content)
        return core.read_model(path)


_SETTINGS: dict[str, Any] = {"files": _files, "read": _read, "suffix": SUFFIX, "package": "openvino"}
RUNTIMES = (
    Runtime("openvino", _converted, _open, processor_name, requires=("onnx", "openvino"), **_SETTINGS),
    Runtime(
        "openvino-int8", _quantized, _open, processor_name, INT8, requires=("onnx", "openvino", "nncf"), **_SETTINGS
    ),
)
