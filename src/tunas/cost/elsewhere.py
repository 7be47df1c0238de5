"""Networks for a device that is not here, as ONNX files beside a table that takes their times."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tunas.cost.measure import OUTPUT, conditions_of, network_and_inputs, wanted_architectures
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import COLUMNS
from tunas.cost.timing import progress_bar
from tunas.errors import InputError
from tunas.files import make_directory, write_bytes, write_text
from tunas.needs import need_packages
from tunas.runtime import Conversion
from tunas.runtime.onnx_file import onnx_bytes
from tunas.space import Architecture, get_space

MANIFEST = "manifest.csv"
HEADER = ("file", *COLUMNS)


def export(config: MeasureConfig) -> Path:
    """Writes `0000.onnx`, … and a manifest to the directory `config.export`; files that are there already are kept.

    Returns:
        The manifest: the CSV that `tunas fit` reads, once its column `milliseconds` is filled in.

    Raises:
        InputError: where the space is unknown or `onnx` is missing, or the manifest in that directory is of other
        architectures.
    """
    need_packages("--export", "onnx", install="tunas-torch[devices]")
    assert config.export is not None
    space = get_space(config.ssd)
    directory = Path(config.export)
    wanted = wanted_architectures(space, config)
    make_directory(directory)
    rows = [(f"{number:04d}.onnx", architecture) for number, architecture in enumerate(wanted)]
    manifest = _written_manifest(directory / MANIFEST, rows, config)
    with progress_bar() as progress:
        for name, architecture in progress.track(rows, description=f"exporting {space.name}"):
            path = directory / name
            if not path.is_file():
                network, inputs, names = network_and_inputs(architecture, config)
                content = onnx_bytes(network, inputs, Conversion(inputs=names, output=OUTPUT))
                write_bytes(path, content)
    return manifest


def _written_manifest(path: Path, rows: Sequence[tuple[str, Architecture]], config: MeasureConfig) -> Path:
    """The manifest with a row for each architecture; rows that are there already stay, with the times in them."""
    kept = _rows_there(path) if path.is_file() else []
    ours = {(name, architecture.text) for name, architecture in rows}
    if any((row["file"], row["indices"]) not in ours for row in kept):
        raise InputError(f"{path} lists other architectures than this export would; give an empty directory")
    known = {row["file"] for row in kept}
    new = [
        {"file": name, "ssd": config.ssd, "indices": architecture.text, **conditions_of(architecture.space, config)}
        for name, architecture in rows
        if name not in known
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")  # writes nothing for None
    writer.writeheader()
    writer.writerows([*kept, *new])
    write_text(path, text.getvalue())
    return path


def _rows_there(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return [{name: row.get(name) or "" for name in HEADER} for row in csv.DictReader(file)]
