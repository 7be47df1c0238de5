"""How layers are built where their descriptions leave it open."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tunas.errors import InputError
from tunas.nn.ops import BN_EPSILON, BN_MOMENTUM, BatchNorm2d
from tunas.space import layers


@dataclass(frozen=True)
class NetworkOptions:
    """How layers are built where the description leaves it open. The defaults are TuNAS's own.

    Args:
        bn_epsilon, bn_momentum: of every batch norm, in torch's sense.
        stateless_bn: batch statistics in training and in evaluation (supernet).
        gate: what squeeze-and-excite ends with, `sigmoid` or `hard_sigmoid` (timm's MobileNetV3).
        relu6: clip every relu at 6 (timm's MobileNetV2).
        same_padding: pad as TensorFlow does (weights trained there).
        path_dropout_rate: chance of dropping a residual layer for a whole training batch
            (docs/algorithm.md#stand-alone-training).
        filters_base: of the tower.
        se_activation: the one inside squeeze-and-excite.
        aggressive_sharing: the choices within a bottleneck or separable convolution share its weights; otherwise every
            combination of them has its own (supernet).
    """

    bn_epsilon: float = BN_EPSILON
    bn_momentum: float = BN_MOMENTUM
    stateless_bn: bool = False
    gate: str = "sigmoid"
    relu6: bool = False
    same_padding: bool = False
    path_dropout_rate: float = 0.0
    filters_base: int = 8
    se_activation: str = "relu"
    aggressive_sharing: bool = True

    def __post_init__(self) -> None:
        if self.gate not in layers.GATES:
            raise InputError(f"a squeeze-and-excite gate is one of {', '.join(layers.GATES)}, not {self.gate!r}")

    def following(self, conventions: layers.Conventions | None) -> NetworkOptions:
        """The same, but for what a tower's conventions say."""
        return self if conventions is None else dataclasses.replace(self, **dataclasses.asdict(conventions))

    def activation(self, spec: layers.Activation) -> str:
        """The name of an activation, as `tunas.nn.ops.activation` takes it."""
        return "relu6" if self.relu6 and spec.kind == "relu" else spec.kind

    def norm(self, channels: int) -> BatchNorm2d:
        """A batch norm of at most `channels` channels."""
        return BatchNorm2d(channels, self.bn_epsilon, self.bn_momentum, stateless=self.stateless_bn)
