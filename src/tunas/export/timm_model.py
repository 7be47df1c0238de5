"""A directory that timm opens, as one more runtime of `tunas export`."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from tunas.errors import InputError
from tunas.nn.network import Network
from tunas.nn.timm_network import CONFIG, LOADER, LOADER_FILE, WEIGHTS, network_of_config, timm_config
from tunas.nn.timm_weights import from_timm, to_timm
from tunas.nn.weight_files import read_tensors
from tunas.run.directory import read_json_object
from tunas.runtime.device import processor_name
from tunas.runtime.pytorch import fetched, inferred, tensors
from tunas.runtime.registry import Conversion, Runtime, Session


def timm_files(network: Network) -> dict[str, bytes]:
    """config.json, model.safetensors and load.py: all that timm needs to open the network.

    Raises:
        InputError: naming the first layer that timm has no words for.
    """
    if not isinstance(network, Network):
        raise InputError(
            f"timm describes towers of our layers, which the {type(network).__name__} of a model of one's own is not; "
            f"leave out --runtime=timm"
        )
    config = json.dumps(timm_config(network), indent=1)
    weights = {name: value.detach().clone().contiguous() for name, value in to_timm(network).items()}
    return {CONFIG: config.encode(), WEIGHTS: save(weights, {"format": "pt"}), LOADER_FILE: LOADER.encode()}


def read_timm(directory: Path) -> Network:
    """The network of a directory with the files of `timm_files`, as one of ours, in eval mode.

    Raises:
        InputError: where the directory is not one that `timm_files` filled.
    """
    config = read_json_object(directory / CONFIG)
    network = network_of_config(config)
    state = from_timm(read_tensors(directory / WEIGHTS), network.description)
    network.load_state_dict(state)
    return network.eval()


def _convert(network: Any, examples: Any, conversion: Conversion) -> dict[str, bytes]:
    return timm_files(network)


def _read(files: Mapping[str, bytes]) -> Any:
    """The timm model, opened by the very loader that is shipped."""
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        spec = importlib.util.spec_from_file_location("tunas_exported_timm", Path(name) / LOADER_FILE)
        assert spec is not None and spec.loader is not None
        loader = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loader)
        return loader.model(name)


def _open(model: Any, threads: int) -> Session:
    import torch

    torch.set_num_threads(threads)
    return Session(inferred(model), tensors, fetched)


TIMM = Runtime(
    "timm", _convert, _open, processor_name, files=lambda files: files, read=_read, suffix=CONFIG, package="timm"
)
