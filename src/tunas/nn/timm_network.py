"""Whole networks as timm models: any tower that timm's block strings can describe.

`timm_config(network)` describes a stand-alone network in timm's words, and `to_timm(network)` of `timm_weights` names
its weights. Together, with the twenty lines of `LOADER`, they make a directory that opens with timm alone; as a model,
or with `features_only=True` as the backbone of a detector. `network_of_config` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunas.errors import InputError
from tunas.nn.layers import (
    ActivationLayer,
    ConvLayer,
    DetectionEndpointLayer,
    GlobalAveragePoolLayer,
    InvertedBottleneckLayer,
    ResidualLayer,
    SeparableConvLayer,
    SqueezeExcite,
    ZeroLayer,
)
from tunas.nn.network import Network, build_network
from tunas.nn.options import NetworkOptions
from tunas.nn.timm_weights import timm_names
from tunas.space import structure_from_json, structure_to_json
from tunas.space.layers import divisible_width

ACTIVATIONS = {
    "relu": ("re", "relu"),
    "relu6": ("r6", "relu6"),
    "swish6": ("hs", "hard_swish"),
    "swish": ("sw", "swish"),
}
"""Ours -> (in timm's block strings, in its registry of layers)."""
NOT_REGISTERED = "what load.py beside it opens"
"""Stands where timm's own directories name one of its registered models, which have fixed block strings. So
`timm.create_model("local-dir:…")` says `Unknown model (what load.py beside it opens)`."""
CONFIG, WEIGHTS, LOADER_FILE = "config.json", "model.safetensors", "load.py"
LOADER = '''\
"""Opens this directory with timm: load.model(), or load.model(features_only=True) as a backbone."""
import json
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from timm.layers import get_act_layer
from timm.models import efficientnet, mobilenetv3
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn


def model(directory=Path(__file__).parent, features_only=False, pretrained=True, **kwargs):
    c = json.loads((Path(directory) / "config.json").read_text())
    module = {"efficientnet": efficientnet, "mobilenetv3": mobilenetv3}[c["family"]]
    name = {"efficientnet": "EfficientNet", "mobilenetv3": "MobileNetV3"}[c["family"]]
    se = partial(SqueezeExcite, gate_layer=c["gate_layer"], force_act_layer=nn.ReLU, rd_round_fn=round_channels)
    shared = {"block_args": decode_arch_def(c["arch_def"]), "stem_size": c["stem_size"], "pad_type": c["pad_type"],
              "act_layer": get_act_layer(c["act_layer"]), "norm_layer": partial(nn.BatchNorm2d, eps=c["bn_eps"]),
              "se_layer": se, **kwargs}
    if not features_only:
        shared = {"num_classes": c["num_classes"], "num_features": c["num_features"], **shared}
    net = getattr(module, name + ("Features" if features_only else ""))(**shared)
    if c["stem_kernel_size"] != 3:
        net.conv_stem = type(net.conv_stem)(
            net.conv_stem.in_channels, c["stem_size"], c["stem_kernel_size"], stride=2,
            padding=0 if c["pad_type"] == "same" else c["stem_kernel_size"] // 2, bias=False)
    if pretrained:
        weights, own = load_file(Path(directory) / "model.safetensors"), net.state_dict()
        net.load_state_dict({key: value for key, value in weights.items() if key in own})
    return net.eval()
'''


def timm_config(network: Network) -> dict[str, Any]:
    """What `LOADER` builds the same network from.

    Raises:
        InputError: naming the first layer that timm has no words for.
    """
    layers = list(_layers(network))
    timm_names(network)  # refuses layers of other kinds by name
    _check_squeezes(network)
    stem, act = _with_activation(layers, 0)
    if stem.conv.conv.stride != (2, 2) or stem.conv.norm is None:
        raise InputError("timm's networks start with a convolution of stride 2 and a batch norm, this one does not")
    tail, head_act, is_v3 = _tail(layers)
    if head_act != act:
        raise InputError(
            f"timm's networks have one activation at their start and their end, this one has {act} and {head_act}"
        )
    options = network.options
    return {
        "architecture": NOT_REGISTERED,
        "pretrained_cfg": {},
        "family": "mobilenetv3" if is_v3 else "efficientnet",
        "arch_def": _stages(layers[2 : len(layers) - 3], is_v3),
        "num_classes": network.head.classifier.out_channels,
        "num_features": tail.conv.conv.out_channels,
        "stem_size": stem.conv.conv.out_channels,
        "stem_kernel_size": stem.conv.conv.kernel_size[0],
        "act_layer": ACTIVATIONS[act][1],
        "gate_layer": options.gate,
        "bn_eps": options.bn_epsilon,
        "pad_type": "same" if options.same_padding else "",
        "tunas": {"tower": structure_to_json(network.description), "relu6": options.relu6},
    }


def network_of_config(config: Mapping[str, Any]) -> Network:
    """The network that `timm_config` described, with new weights; `from_timm` converts a state dict for it.

    Raises:
        InputError: where the description is not one of ours.
    """
    ours = config.get("tunas")
    if not isinstance(ours, Mapping) or not isinstance(ours.get("tower"), str):
        raise InputError("the description of this timm network does not say which tower it is")
    options = NetworkOptions(
        bn_epsilon=config["bn_eps"],
        gate=config["gate_layer"],
        relu6=bool(ours.get("relu6")),
        same_padding=config["pad_type"] == "same",
    )
    return build_network(structure_from_json(ours["tower"]), config["num_classes"], options=options)


def _layers(network: Network) -> Iterator[tuple[int, Any, bool]]:
    """(block, layer, whether its input is added) for each layer that does something, in order."""
    for block, modules in enumerate(network.tower.blocks):
        for layer in modules.children():
            skip = isinstance(layer, ResidualLayer)
            inner = layer.layer if isinstance(layer, ResidualLayer) else layer
            if isinstance(inner, DetectionEndpointLayer) or (skip and isinstance(inner, ZeroLayer)):
                continue
            yield block, inner, skip


def _with_activation(layers: list[Any], place: int) -> tuple[Any, str]:
    """(the convolution at `place`, the activation that follows it)."""
    following = [layer for _, layer, _ in layers[place : place + 2]]
    if len(following) < 2 or not isinstance(following[0], ConvLayer) or not isinstance(following[1], ActivationLayer):
        raise InputError("timm's networks have an activation after each plain convolution, this one does not")
    return following[0], _known(following[1].kind)


def _tail(layers: list[Any]) -> tuple[Any, str, bool]:
    """(last convolution, its activation, whether it comes after the pooling as in MobileNetV3)."""
    kinds = [type(layer) for _, layer, _ in layers[-3:]]
    if kinds == [ConvLayer, ActivationLayer, GlobalAveragePoolLayer]:
        conv, act = _with_activation(layers, len(layers) - 3)
        if conv.conv.norm is not None and conv.conv.conv.kernel_size == (1, 1):
            return conv, act, False
    if kinds == [GlobalAveragePoolLayer, ConvLayer, ActivationLayer]:
        conv, act = _with_activation(layers, len(layers) - 2)
        if conv.conv.norm is None and conv.conv.conv.kernel_size == (1, 1):
            return conv, act, True
    raise InputError(
        "timm's networks end with a 1×1 convolution, batch norm, activation and pooling, or with pooling, a 1×1 "
        "convolution with bias and an activation; this one does not"
    )


def _stages(layers: list[Any], is_v3: bool) -> list[list[str]]:
    """timm's block strings, one list per block of the tower."""
    stages: list[list[str]] = []
    last = -1
    place = 0
    while place < len(layers):
        block, layer, skip = layers[place]
        if isinstance(layer, ConvLayer):
            conv, act = _with_activation(layers, place)
            place += 1
            text = _conv_string(conv, act, skip)
        elif isinstance(layer, SeparableConvLayer):
            text = _separable_string(layer, skip)
        elif isinstance(layer, InvertedBottleneckLayer):
            text = _bottleneck_string(layer, skip, is_v3)
        else:
            raise InputError(f"timm's block strings have no word for {type(layer).__name__} in blocks/{block}")
        if block != last:
            stages.append([])
            last = block
        elif _stride(layer) != 1:
            raise InputError(f"timm's stages have their stride in their first layer, unlike blocks/{block}")
        stages[-1].append(text)
        place += 1
    return stages


def _check_squeezes(network: Network) -> None:
    """Refuses squeeze-and-excite that block strings cannot say."""
    for module in network.modules():
        if isinstance(module, SqueezeExcite) and (module.width is not None or module.act != "relu"):
            raise InputError("timm's block strings cannot say the width or activation of a squeeze-and-excite")
        if isinstance(module, SeparableConvLayer) and isinstance(module.se, SqueezeExcite):
            raise InputError("a separable convolution with squeeze-and-excite cannot be written for timm yet")


def _conv_string(layer: Any, act: str, skip: bool) -> str:
    """timm's string for a plain convolution."""
    conv = layer.conv.conv
    skips = "_skip" if skip else ""
    return f"cn_r1_k{conv.kernel_size[0]}_s{conv.stride[0]}_c{conv.out_channels}_n{ACTIVATIONS[act][0]}{skips}"


def _separable_string(layer: Any, skip: bool) -> str:
    """timm's string for a separable convolution."""
    conv, out = layer.depthwise.conv, layer.pointwise.conv.out_channels
    ending = _no_skip(skip, conv.in_channels, out, conv.stride[0])
    act = ACTIVATIONS[_known(layer.depthwise.act)][0]
    return f"ds_r1_k{conv.kernel_size[0]}_s{conv.stride[0]}_c{out}_n{act}{ending}"


def _bottleneck_string(layer: Any, skip: bool, is_v3: bool) -> str:
    """timm's string for an inverted bottleneck."""
    conv, inputs, out = layer.depthwise.conv, layer.expand.conv.in_channels, layer.project.conv.out_channels
    ratio = conv.in_channels / inputs
    if divisible_width(inputs * float(f"{ratio:.6f}")) != conv.in_channels:
        raise InputError(f"timm rounds widths to multiples of 8; a bottleneck of width {conv.in_channels} is none")
    squeeze = ""
    if isinstance(layer.se, SqueezeExcite):
        squeeze = f"_se{0.25 if is_v3 else 0.25 * ratio:.6f}"
    act = ACTIVATIONS[_known(layer.depthwise.act)][0]
    ending = _no_skip(skip, inputs, out, conv.stride[0])
    return f"ir_r1_k{conv.kernel_size[0]}_s{conv.stride[0]}_e{ratio:.6f}_c{out}{squeeze}_n{act}{ending}"


def _no_skip(skip: bool, inputs: int, outputs: int, stride: int) -> str:
    """timm adds its skip to every layer that could have one, unless told otherwise."""
    return "_noskip" if not skip and stride == 1 and inputs == outputs else ""


def _stride(layer: Any) -> int:
    conv = layer.conv.conv if isinstance(layer, ConvLayer) else layer.depthwise.conv
    return int(conv.stride[0])  # type: ignore[index]


def _known(act: str | None) -> str:
    """The activation, where timm's block strings have a word for it."""
    if act not in ACTIVATIONS:
        raise InputError(f"timm's block strings have no word for the activation {act}")
    return act
