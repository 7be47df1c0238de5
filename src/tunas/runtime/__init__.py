"""What can run a network on a device: converted, quantised, opened and run, one file for each runtime.

Knows nothing of spaces and images: it takes modules in eval mode and examples of their inputs. Importing it imports
neither torch nor a runtime; what a runtime needs is imported when it is used.
"""

from tunas.runtime import executorch, onnxruntime, openvino, pytorch
from tunas.runtime.registry import (
    Conversion,
    Runtime,
    Session,
    get_runtime,
    register_runtime,
    runtime_names,
)

for _runtime in (*pytorch.RUNTIMES, *onnxruntime.RUNTIMES, *openvino.RUNTIMES, *executorch.RUNTIMES):
    register_runtime(_runtime)

__all__ = ["Conversion", "Runtime", "Session", "get_runtime", "register_runtime", "runtime_names"]
