"""ExecuTorch with XNNPACK, what PyTorch runs on phones, in float32 and in INT8: the artifact is a .pte program."""

from __future__ import annotations

from typing import Any

from tunas.runtime.device import processor_name
from tunas.runtime.pytorch import exported, fetched, first_output, tensors
from tunas.runtime.registry import INT8, Conversion, Runtime, Session, one_file


def _converted(network: Any, examples: Any, conversion: Conversion) -> bytes:
    return _lowered(exported(network, examples, conversion))


def _quantized(network: Any, examples: Any, conversion: Conversion) -> bytes:
    """Post-training static quantisation by torchao's PT2E with XNNPACK's own quantizer: weights symmetric per output
    channel, activations per tensor."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(exported(network, examples, conversion).module(), quantizer)
    with torch.no_grad():
        for arrays in conversion.calibration:
            observed(*tensors(arrays))
    return _lowered(exported(convert_pt2e(observed), examples, conversion))


def _lowered(program: Any) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def _open(program: bytes, threads: int) -> Session:
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime as Loader

    loaded = Loader.get().load_program(program)
    method = loaded.load_method("forward")
    _unsafe_reset_threadpool(threads)

    def run(inputs: Any, program: Any = loaded) -> Any:  # which the method reads from, so that it must stay
        return first_output(method.execute(inputs))

    return Session(run, tensors, fetched)


_SETTINGS: dict[str, Any] = {
    **one_file(".pte"),
    "package": "executorch",
    "install": "tunas-torch[executorch]",
    "any_batch": False,
}
RUNTIMES = (
    Runtime("executorch", _converted, _open, processor_name, requires=("executorch",), **_SETTINGS),
    Runtime(
        "executorch-int8", _quantized, _open, processor_name, INT8, requires=("executorch", "torchao"), **_SETTINGS
    ),
)
