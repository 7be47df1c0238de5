"""PyTorch itself, eager or compiled: the artifact is a `torch.export` program, and its file a .pt2."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tunas.runtime.device import gpu_name, no_gpu, processor_name
from tunas.runtime.registry import Arrays, Conversion, Runtime, Session

SUFFIX = ".pt2"


def exported(network: Any, examples: Any, conversion: Conversion) -> Any:
    """The network as a `torch.export.ExportedProgram`."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in examples) if conversion.dynamic_batch else None
    with torch.no_grad():
        return torch.export.export(network, traced_examples(examples, conversion), dynamic_shapes=shapes)


def traced_examples(examples: Any, conversion: Conversion) -> Any:
    """Examples in a batch that an exporter does not take for a constant, as it does a batch of one."""
    if not conversion.dynamic_batch:
        return examples
    return tuple(example.repeat(2, *[1] * (example.dim() - 1)) for example in examples)


def _files(program: Any) -> Mapping[str, bytes]:
    import torch

    content = io.BytesIO()
    torch.export.save(program, content)
    return {SUFFIX: content.getvalue()}


def _read(files: Mapping[str, bytes]) -> Any:
    import torch

    return torch.export.load(io.BytesIO(files[SUFFIX]))


def tensors(arrays: Arrays) -> Any:
    """A tuple of tensors that share the arrays' memory where they can."""
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def _on_gpu(arrays: Arrays) -> Any:
    return tuple(tensor.cuda() for tensor in tensors(arrays))


def fetched(output: Any) -> np.ndarray:
    """A tensor on any device as a float32 array."""
    return output.float().cpu().numpy()


def first_output(output: Any) -> Any:
    """What counts of what a module gives."""
    return output[0] if isinstance(output, tuple | list) else output


def inferred(module: Any) -> Callable[[Any], Any]:
    """Runs a module on a tuple of tensors without gradients."""
    import torch

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            return first_output(module(*inputs))

    return run


def _then_synchronized(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, which returns when the GPU has the result."""
    import torch

    def synchronized(inputs: Any) -> Any:
        output = run(inputs)
        torch.cuda.synchronize()
        return output

    return synchronized


def _open_cpu(program: Any, threads: int) -> Session:
    import torch

    torch.set_num_threads(threads)
    return Session(inferred(program.module()), tensors, fetched)


def _open_cpu_compiled(program: Any, threads: int) -> Session:
    import torch

    torch.compiler.reset()  # otherwise the compiler gives up after a few networks and runs them eagerly
    torch.set_num_threads(threads)
    return Session(inferred(torch.compile(program.module(), dynamic=False)), tensors, fetched)


def module_on(device: str, program: Any) -> Any:
    """The exported program as a module on a device.

    Moving the module would not do: a conversion such as bytes to floats is exported with the device that it was traced
    on, and checks it.
    """
    import torch

    moved = copy.deepcopy(program)  # the pass below changes what it is given
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:  # before PyTorch 2.7
        return moved.module().to(torch.device(device))
    return move_to_device_pass(moved, device).module()


def _open_cuda(program: Any, threads: int) -> Session:
    return Session(_then_synchronized(inferred(module_on("cuda", program))), _on_gpu, fetched)


def _open_cuda_compiled(program: Any, threads: int) -> Session:
    import torch

    torch.compiler.reset()
    compiled = torch.compile(module_on("cuda", program), dynamic=False, mode="reduce-overhead")
    return Session(_then_synchronized(inferred(compiled)), _on_gpu, fetched)


def _runtime(name: str, opened: Any, describe: Any, **settings: Any) -> Runtime:
    return Runtime(name, exported, opened, describe, files=_files, read=_read, suffix=SUFFIX, **settings)


_CUDA: dict[str, Any] = {"unavailable": no_gpu, "sets_threads": False}
RUNTIMES = (
    _runtime("torch-cpu", _open_cpu, processor_name),
    _runtime("torch-cpu-compile", _open_cpu_compiled, processor_name, interleaves=False),
    _runtime("torch-cuda", _open_cuda, gpu_name, **_CUDA),
    _runtime("torch-cuda-compile", _open_cuda_compiled, gpu_name, interleaves=False, **_CUDA),
)
