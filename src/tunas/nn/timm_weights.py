"""Weights from timm's MobileNets into ours and back.

For checkpoints of timm's efficientnet builder (`mobilenetv2_100`, `mnasnet_100`, `mobilenetv3_large_100`, their `tf_`
relatives, and any other model of that builder whose architecture can be written as a `Tower`). timm itself is not
needed: only names and shapes are looked at.

```python
from tunas.nn.timm_weights import from_timm, timm_options, timm_reference, to_timm

name = "tf_mobilenetv3_large_100"
architecture = tunas.get_space(timm_reference(name)).architecture("")
network = tunas.build_network(architecture, num_classes=1000, options=timm_options(name))
network.load_state_dict(from_timm(state_dict, architecture))
state_dict = to_timm(network)
```

What stands where, `s` counting the stages (our blocks that hold a bottleneck, a separable convolution or an inner
convolution) and `i` the layers in one, skipped layers left out:

| ours | timm |
| --- | --- |
| first Conv: convolution, norm | `conv_stem`, `bn1` |
| SeparableConv: depthwise, norm, pointwise, norm | `blocks.s.i.` `conv_dw`, `bn1`, `conv_pw`, `bn2` |
| InvertedBottleneck: expand, norm, depthwise, norm | `blocks.s.i.` `conv_pw`, `bn1`, `conv_dw`, `bn2` |
| either's squeeze-and-excite: reduce, expand | `blocks.s.i.` `se.conv_reduce`, `se.conv_expand` |
| its project, norm | `blocks.s.i.` `conv_pwl`, `bn3` |
| inner Conv: convolution, norm | `blocks.s.i.` `conv`, `bn1` |
| last Conv: convolution, norm (or bias) | `conv_head`, `bn2` |
| classifier, a 1×1 convolution | `classifier`, a linear layer |

A state dict does not tell activations, strides and skips. timm adds its skip to *every* layer of stride 1 that keeps
its width (unless told `noskip`); a tower must say `Residual` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.layers import (
    ConvLayer,
    InvertedBottleneckLayer,
    ResidualLayer,
    SeparableConvLayer,
    SqueezeExcite,
)
from tunas.nn.network import Network, build_network
from tunas.nn.options import NetworkOptions
from tunas.space.architecture import Architecture
from tunas.space.layers import Tower

BN_EPSILON = 1e-5
"""torch's own, which timm leaves alone."""
BN_EPSILON_TF = 1e-3
"""Of the models that timm took over from TensorFlow."""
BN_MOMENTUM = 0.1
REFERENCES = {
    "mobilenetv2_100": "mobilenet_v2",
    "mnasnet_100": "mnasnet_b1",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "tf_mobilenetv3_large_100": "mobilenet_v3_large",
}
"""timm's model names, without tags, and the same architectures by our names."""
FAMILIES: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"relu6": True},
    "mobilenetv3": {"gate": "hard_sigmoid"},
    "hardcorenas": {"gate": "hard_sigmoid"},
    "mnasnet": {},
    "spnasnet": {},
    "fbnetc": {},
}
"""What the models of a family, known by the start of their names, do otherwise than TuNAS."""
TF_PREFIX = "tf_"
COUNTER = ".num_batches_tracked"
CLASSIFIER = "classifier"


def timm_reference(model_name: str) -> str:
    """The name of the space that is timm's `model_name` (a tag such as `.ra_in1k` is ignored).

    Raises:
        InputError: where none of the reference architectures is.
    """
    name = model_name.partition(".")[0]
    if name not in REFERENCES:
        raise InputError(f"timm's {name!r} is none of the reference architectures; known are {', '.join(REFERENCES)}")
    return REFERENCES[name]


def timm_options(model_name: str) -> NetworkOptions:
    """How a network is built to compute what timm's `model_name` does: relu6, gate, batch norm and padding.

    Raises:
        InputError: where the model's family is not known here.
    """
    name = model_name.partition(".")[0]
    from_tensorflow = name.startswith(TF_PREFIX)
    family = next((start for start in FAMILIES if name.removeprefix(TF_PREFIX).startswith(start)), None)
    if family is None:
        raise InputError(
            f"the options of timm's {name!r} are not known; known families are {', '.join(FAMILIES)}, also with "
            f"{TF_PREFIX}"
        )
    epsilon = BN_EPSILON_TF if from_tensorflow else BN_EPSILON
    return NetworkOptions(bn_epsilon=epsilon, bn_momentum=BN_MOMENTUM, same_padding=from_tensorflow, **FAMILIES[family])


def options_of_training(params: Mapping[str, Any]) -> NetworkOptions:
    """How the network of a training is built, by its settings `init_from`, `timm_model` and `padding`: as timm builds
    its model, where the weights come from there."""
    if params.get("init_from") is not None and params.get("timm_model") is not None:
        return timm_options(params["timm_model"])
    return NetworkOptions(same_padding=params.get("padding") == "same")


def from_timm(state_dict: Mapping[str, Tensor], architecture: Architecture | Tower) -> dict[str, Tensor]:
    """A state dict for `build_network(architecture, …)` out of one of the same architecture in timm.

    The number of classes is the state dict's. Tensors are shared with `state_dict`, not copied.

    Raises:
        InputError: naming the first entry, in network order, that is missing or of another shape; or an entry that
            has no place in the architecture.
    """
    with torch.device("meta"):
        network = build_network(architecture, _number_of_classes(state_dict))
    converted = {}
    names = timm_names(network)
    for ours, wanted in network.state_dict().items():
        theirs = names[ours]
        if theirs.endswith(COUNTER) and theirs not in state_dict:  # checkpoints from before torch counted batches
            converted[ours] = torch.zeros((), dtype=torch.long)
            continue
        shape = wanted.shape[:2] if theirs == f"{CLASSIFIER}.weight" else wanted.shape
        if theirs not in state_dict:
            raise InputError(f"{theirs!r}, of shape {tuple(shape)}, is missing in the timm state dict")
        value = state_dict[theirs]
        if getattr(value, "shape", None) != shape:
            found = (
                f"has shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else f"is no tensor but {type(value).__name__}"
            )
            raise InputError(f"{theirs!r} of the timm state dict {found}; the architecture has {tuple(shape)} there")
        converted[ours] = value.detach().reshape(wanted.shape)
    if left_over := [key for key in state_dict if key not in set(names.values())]:
        raise InputError(f"{left_over[0]!r} of the timm state dict has no place in the architecture")
    return converted


def to_timm(network: Network) -> dict[str, Tensor]:
    """The state dict of `network` under timm's names and shapes, ready for `load_state_dict` of the timm model.

    Tensors are shared with the network, not copied.

    Raises:
        InputError: where timm's builder has no layer like one of the network's.
    """
    names = timm_names(network)
    converted = {names[ours]: value for ours, value in network.state_dict().items()}
    converted[f"{CLASSIFIER}.weight"] = converted[f"{CLASSIFIER}.weight"].flatten(1)
    return converted


def timm_names(network: Network) -> dict[str, str]:
    """For every entry of the network's state dict, in its order, the name that timm has for it.

    Raises:
        InputError: where timm's builder has no layer like one of the network's.
    """
    modules: dict[nn.Module, str] = {}
    layers = list(_layers(network))
    if not layers or not isinstance(layers[0][1], ConvLayer):
        raise InputError("timm's networks start with a convolution, this one does not")
    head = len(layers) - 1 if isinstance(layers[-1][1], ConvLayer) else None
    stage, place, last_block = -1, 0, -1
    for number, (block, layer) in enumerate(layers):
        if number == 0:
            modules |= _conv_names(layer, "conv_stem", "bn1")
        elif number == head:
            modules |= _conv_names(layer, "conv_head", "bn2")
        else:
            stage, place = (stage, place + 1) if block == last_block else (stage + 1, 0)
            last_block = block
            modules |= _layer_names(layer, f"blocks.{stage}.{place}.")
    modules[network.head.classifier] = CLASSIFIER
    prefixes = {ours: modules[module] for ours, module in network.named_modules() if module in modules}
    names = {}
    for key in network.state_dict():
        module_name, _, entry = key.rpartition(".")
        names[key] = f"{prefixes[module_name]}.{entry}"
    return names


def _layers(network: Network) -> Iterator[tuple[int, nn.Module]]:
    """(block, layer) for each layer that has weights, taken out of its residual."""
    for block, modules in enumerate(network.tower.blocks):
        for layer in modules.children():
            while isinstance(layer, ResidualLayer):
                layer = layer.layer
            if any(True for _ in layer.parameters()):
                yield block, layer


def _conv_names(layer: Any, conv: str, norm: str) -> dict[nn.Module, str]:
    return {layer.conv.conv: conv} | ({} if layer.conv.norm is None else {layer.conv.norm: norm})


def _layer_names(layer: Any, prefix: str) -> dict[nn.Module, str]:
    """Module -> timm's name, of the convolutions and norms of a layer inside the stages."""
    names: dict[nn.Module, str] = {}
    if isinstance(layer, ConvLayer):
        if layer.conv.norm is None:
            raise InputError(
                f"timm's builder has no convolution without batch norm at {prefix.rstrip('.')}, only as the last one"
            )
        names = _conv_names(layer, "conv", "bn1")
    elif isinstance(layer, SeparableConvLayer):
        names = _pair(layer.depthwise, "conv_dw", "bn1") | _pair(layer.pointwise, "conv_pw", "bn2")
        names |= _squeeze_names(layer.se)
    elif isinstance(layer, InvertedBottleneckLayer):
        names = (
            _pair(layer.expand, "conv_pw", "bn1")
            | _pair(layer.depthwise, "conv_dw", "bn2")
            | _pair(layer.project, "conv_pwl", "bn3")
        )
        names |= _squeeze_names(layer.se)
    else:
        raise InputError(f"timm's builder has no layer like {type(layer).__name__} at {prefix.rstrip('.')}")
    return {module: prefix + name for module, name in names.items()}


def _squeeze_names(se: Any) -> dict[nn.Module, str]:
    return {se.reduce: "se.conv_reduce", se.expand: "se.conv_expand"} if isinstance(se, SqueezeExcite) else {}


def _pair(conv_norm: Any, conv: str, norm: str) -> dict[nn.Module, str]:
    return {conv_norm.conv: conv, conv_norm.norm: norm}


def _number_of_classes(state_dict: Mapping[str, Tensor]) -> int:
    weight = state_dict.get(f"{CLASSIFIER}.weight")
    return weight.shape[0] if isinstance(weight, Tensor) and weight.dim() and len(weight) else 1
