"""What can run a network to be timed. A backend is one function; `register_backend` adds another.

Imports torch and the runtimes only when a backend is used.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tunas.errors import InputError

Run = Callable[[], Any]
"""Runs the network once on its image and returns when the result is there."""

ONNX_OPSET = 17


@dataclass(frozen=True)
class Backend:
    """A runtime on a device.

    Args:
        name: what `--device` calls it.
        prepare: `prepare(network, image, threads)` makes a stand-alone network in eval mode ready to run on `image`
            (float32 `[1, 3, size, size]`) and returns the function that runs it once.
        describe: names the device, e.g. the processor.
        requires: modules that must be importable.
        install: what to install where one is missing.
        interleaves: whether several prepared networks can be alive at the same time, so that they are timed in turn.
        sets_threads: whether the number of threads means anything to it.
    """

    name: str
    prepare: Callable[[Any, Any, int], Run]
    describe: Callable[[], str]
    requires: tuple[str, ...] = ()
    install: str = "tunas-torch[devices]"
    interleaves: bool = True
    sets_threads: bool = True

    def version(self) -> str:
        """The runtime and its version, such as `onnxruntime 1.23.0`."""
        package = self.requires[-1] if self.requires else "torch"
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return package


_backends: dict[str, Backend] = {}


def register_backend(backend: Backend) -> None:
    """Makes a backend known under its name; a later one of the same name replaces it."""
    _backends[backend.name] = backend


def backend_names() -> tuple[str, ...]:
    return tuple(_backends)


def get_backend(name: str) -> Backend:
    """The backend of that name, whose runtime is there.

    Raises:
        InputError: where there is none (with the nearest names), or its runtime is not installed, or it needs a GPU and
            there is none.
    """
    if name not in _backends:
        near = difflib.get_close_matches(name, _backends, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_backends)}"
        raise InputError(f"unknown device {name!r}; {hint}")
    backend = _backends[name]
    if missing := [module for module in backend.requires if importlib.util.find_spec(module) is None]:
        raise InputError(
            f"device {name!r} needs {' and '.join(missing)}, not installed here: pip install '{backend.install}'"
        )
    if "cuda" in name:
        import torch

        if not torch.cuda.is_available():
            raise InputError(f"device {name!r} needs a CUDA GPU, and torch sees none")
    return backend


def processor_name() -> str:
    """What the processor calls itself, and how many cores this process may use."""
    name = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name or platform.processor() or platform.machine()}, {cores} cores"


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def export_onnx(network: Any, image: Any, path: str | os.PathLike[str]) -> None:
    """Writes a network in eval mode as one ONNX file: input `image` `[1, 3, size, size]`, output `logits` `[1,
    classes]`.

    Uses torch's tracing exporter, which folds batch norms and takes a tenth of a second; it needs only `onnx`. A torch
    that no longer has it exports through `torch.export`, which needs `onnxscript` as well.
    """
    import torch

    write: Any = torch.onnx.export
    names = {"input_names": ["image"], "output_names": ["logits"]}
    choosable = "dynamo" in inspect.signature(write).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write(
                network,
                (image,),
                os.fspath(path),
                **names,
                opset_version=ONNX_OPSET,
                **({"dynamo": False} if choosable else {}),
            )
        except (TypeError, ValueError, ImportError, AttributeError, NotImplementedError):
            if not choosable:
                raise
            write(network, (image,), os.fspath(path), **names, dynamo=True, external_data=False, verbose=False)


def onnx_bytes(network: Any, image: Any) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.onnx"
        export_onnx(network, image, path)
        return path.read_bytes()


def _torch_cpu(network: Any, image: Any, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)

    def run() -> Any:
        with torch.inference_mode():
            return network(image)

    return run


def _torch_cpu_compile(network: Any, image: Any, threads: int) -> Run:
    import torch

    torch.compiler.reset()  # otherwise the compiler gives up after a few networks and runs them eagerly
    torch.set_num_threads(threads)
    compiled = torch.compile(network, dynamic=False)

    def run() -> Any:
        with torch.no_grad():
            return compiled(image)

    return run


def _torch_cuda(network: Any, image: Any, threads: int) -> Run:
    import torch

    network, image = network.cuda(), image.cuda()

    def run() -> Any:
        with torch.inference_mode():
            logits = network(image)
            torch.cuda.synchronize()
            return logits

    return run


def _torch_cuda_compile(network: Any, image: Any, threads: int) -> Run:
    import torch

    torch.compiler.reset()
    compiled, image = torch.compile(network.cuda(), dynamic=False, mode="reduce-overhead"), image.cuda()

    def run() -> Any:
        with torch.no_grad():
            logits = compiled(image)
            torch.cuda.synchronize()
            return logits

    return run


def _onnxruntime(network: Any, image: Any, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_bytes(network, image), options, providers=["CPUExecutionProvider"])
    feed = {"image": image.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(network: Any, image: Any, threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx_bytes(network, image)), "CPU", settings).create_infer_request()
    feed = {0: image.numpy()}
    return lambda: request.infer(feed)[0]


def _executorch(network: Any, image: Any, threads: int) -> Run:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    exported = torch.export.export(network, (image,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    loaded = Runtime.get().load_program(program.buffer)
    method = loaded.load_method("forward")
    _unsafe_reset_threadpool(threads)
    return lambda: (loaded, method.execute((image,)))[1][0]  # the method reads from the program that it was loaded from


for _backend in (
    Backend("torch-cpu", _torch_cpu, processor_name),
    Backend("torch-cpu-compile", _torch_cpu_compile, processor_name, interleaves=False),
    Backend("torch-cuda", _torch_cuda, gpu_name, sets_threads=False),
    Backend("torch-cuda-compile", _torch_cuda_compile, gpu_name, interleaves=False, sets_threads=False),
    Backend("onnxruntime", _onnxruntime, processor_name, ("onnx", "onnxruntime")),
    Backend("openvino", _openvino, processor_name, ("onnx", "openvino")),
    Backend("executorch", _executorch, processor_name, ("executorch",), install="tunas-torch[executorch]"),
):
    register_backend(_backend)
