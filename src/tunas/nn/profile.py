"""Parameters, multiply-accumulates and activation sizes of an architecture, without building it."""

from __future__ import annotations

from typing import Any

from tunas.errors import InputError
from tunas.nn.counting import leaf_counts, meta_network, total_macs
from tunas.nn.layers import layer_operations
from tunas.nn.operations import Operation
from tunas.space import layers
from tunas.space.architecture import Architecture


def layers_with_operations(architecture: Architecture, image_size: int = 224) -> list[tuple[str, list[Operation]]]:
    """(path such as `blocks/2/layers/0`, its operations) for each layer, in network order; no classifier."""
    return _walk(architecture, image_size)[0]


def _walk(architecture: Architecture, image_size: int) -> tuple[list[tuple[str, list[Operation]]], int, int]:
    """Layers with their operations, and the channels and pixels along one side that the last one hands to the
    classifier."""
    found = []
    tower = architecture.tower
    width, size = layers.IMAGE_CHANNELS, image_size
    for number, block in enumerate(tower.blocks):
        assert isinstance(block.filters, int)
        for place, layer in enumerate(block.layers):
            operations = layer_operations(layer, width, block.filters, size, tower.filters_base)
            found.append((f"blocks/{number}/layers/{place}", operations))
            width = width if layers.keeps_width(layer) else block.filters
            size = operations[-1].output_size if operations else size
    return found, width, size


def operations_of(architecture: Architecture, num_classes: int = 1000, image_size: int = 224) -> list[Operation]:
    """Every operation of the stand-alone network in order, the classifier last."""
    found, width, size = _walk(architecture, image_size)
    classifier = Operation.conv("classifier", width, num_classes, 1, 1, size, bias=True)
    return [*(operation for _, operations in found for operation in operations), classifier]


def count_parameters(architecture: Architecture, num_classes: int = 1000) -> int:
    """Trainable parameters of the stand-alone network."""
    if not isinstance(architecture.space.structure, layers.Tower):
        return sum(parameter.numel() for parameter in meta_network(architecture).parameters())
    return sum(operation.parameters for operation in operations_of(architecture, num_classes))


def count_macs(
    architecture: Architecture, num_classes: int = 1000, image_size: int = 224, *, example: Any = None
) -> int:
    """Multiply-accumulates of the stand-alone network for one example.

    Of a tower those of its convolutions, for one image of `image_size`² pixels; of a model of one's own those of all
    matrix products and convolutions, for `example`, or that of the space.

    Raises:
        InputError: where a model of one's own has no example, or cannot be counted.
    """
    if not isinstance(architecture.space.structure, layers.Tower):
        if example is None and architecture.space.example is None:
            raise InputError(f"counting {architecture.space.name} takes an example of its inputs")
        inputs = example if example is not None else architecture.space.example
        return total_macs(leaf_counts(architecture, inputs() if callable(inputs) else inputs))
    return sum(operation.macs for operation in operations_of(architecture, num_classes, image_size))
