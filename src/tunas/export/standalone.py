"""predict.py: what runs an artifact with numpy, Pillow and its runtime alone."""

from __future__ import annotations

from string import Template

_PROGRAM = Template('''\
"""Class and probability of images: python predict.py IMAGE …  (needs $needs)"""
import json
import sys
from pathlib import Path

import numpy as np
$imports
from PIL import Image

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
LABELS = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
$opened

def view(path):
    """uint8 [1, S, S, 3]: the central square, resized."""
    image = Image.open(path).convert("RGB")
    side = max(1, int(min(image.size) * ABOUT["crop"]))
    left, top = ((length - side + 1) // 2 for length in image.size)
    square, size = image.crop((left, top, left + side, top + side)), ABOUT["image_size"]
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))[None]


def probabilities(pixels):
$prepared    logits = $run[0]
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


for path in sys.argv[1:]:
    chance = probabilities(view(path))
    print(f"{path}\\t{LABELS[chance.argmax()]}\\t{chance.max():.4f}")
''')

_OPENED = {
    "onnxruntime": (
        "import onnxruntime",
        'SESSION = onnxruntime.InferenceSession(HERE / ABOUT["file"], providers=["CPUExecutionProvider"])\n',
        "SESSION.run(None, {SESSION.get_inputs()[0].name: pixels})[0]",
    ),
    "openvino": (
        "import openvino",
        'EXACT = {"INFERENCE_PRECISION_HINT": "f32"}\n'
        'MODEL = openvino.Core().compile_model(HERE / ABOUT["file"], "CPU", EXACT)\n',
        "MODEL(pixels)[0]",
    ),
    "executorch": (
        "import torch\nfrom executorch.runtime import Runtime",
        'PROGRAM = Runtime.get().load_program(HERE / ABOUT["file"])\nMETHOD = PROGRAM.load_method("forward")\n',
        "METHOD.execute((torch.from_numpy(pixels.copy()),))[0].numpy()",
    ),
    "torch": (
        "import torch",
        'MODEL = torch.export.load(HERE / ABOUT["file"]).module()\n',
        "MODEL(torch.from_numpy(pixels.copy())).detach().numpy()",
    ),
}
_UNIT = "    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)\n"
_NORMAL = (
    '    mean, std = (np.float32(ABOUT[name])[:, None, None] for name in ("mean", "std"))\n'
    "    pixels = (pixels - mean) / std\n"
)
_PREPARED = {"bytes": "", "unit": _UNIT, "normalized": _UNIT + _NORMAL}


def predict_program(package: str, takes: str) -> str | None:
    """The text of predict.py for an artifact that `package` opens; None for a runtime of the user's."""
    if package not in _OPENED:
        return None
    imports, opened, run = _OPENED[package]
    needs = f"numpy, Pillow and {package}"
    return _PROGRAM.substitute(imports=imports, opened=opened, run=run, prepared=_PREPARED[takes], needs=needs)
