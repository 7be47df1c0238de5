"""What can be searched: plain structures with choices in them. Imports no torch."""

from tunas.space.architecture import Architecture, Space, active_positions
from tunas.space.catalog import get_space, register_space, space_names
from tunas.space.choice import ALL, FILTERS, OP, ChoicePoint, OneOf
from tunas.space.layers import (
    ACTIVATION,
    KERNEL_SIZE,
    RELU,
    RELU6,
    SIGMOID,
    SWISH6,
    SWITCH,
    WIDTH,
    Activation,
    Block,
    Conv,
    DetectionEndpoint,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
)
from tunas.space.registry import register_layer
from tunas.space.serialize import tower_from_json, tower_to_json

__all__ = [
    "ACTIVATION",
    "ALL",
    "FILTERS",
    "KERNEL_SIZE",
    "OP",
    "RELU",
    "RELU6",
    "SIGMOID",
    "SWISH6",
    "SWITCH",
    "WIDTH",
    "Activation",
    "Architecture",
    "Block",
    "ChoicePoint",
    "Conv",
    "DetectionEndpoint",
    "GlobalAveragePool",
    "InvertedBottleneck",
    "OneOf",
    "Residual",
    "SeparableConv",
    "Space",
    "Times",
    "Tower",
    "Zero",
    "active_positions",
    "get_space",
    "register_layer",
    "register_space",
    "space_names",
    "tower_from_json",
    "tower_to_json",
]
