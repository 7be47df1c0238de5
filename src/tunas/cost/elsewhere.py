"""Networks for a device that is not here, as ONNX files beside a table that takes their times."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tunas.cost.measure import OUTPUT, conditions_of, network_and_inputs, wanted_architectures
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import COLUMNS
from tunas.cost.timing import progress_bar
from tunas.errors import InputError
from tunas.files import make_directory, write_text, write_whole
from tunas.needs import need_packages
from tunas.runtime import Conversion
from tunas.runtime.onnx_file import onnx_bytes
from tunas.space import Architecture, get_space

MANIFEST = "manifest.csv"


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
                write_whole(path, functools.partial(_write, content))
    return manifest


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _written_manifest(path: Path, rows: Sequence[tuple[str, Architecture]], config: MeasureConfig) -> Path:
    header = ["file", *COLUMNS]
    kept: list[list[str]] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            kept = [[row.get(name) or "" for name in header] for row in reader]
        ours = {(name, architecture.text) for name, architecture in rows}
        indices_column = header.index("indices")
        if any((row[0], row[indices_column]) not in ours for row in kept):
            raise InputError(f"{path} lists other architectures than this export would; give an empty directory")
    known = {row[0] for row in kept}
    new = []
    for name, architecture in rows:
        if name not in known:
            cells = {
                "file": name,
                "ssd": config.ssd,
                "indices": architecture.text,
                **{name: _cell(value) for name, value in conditions_of(architecture.space, config).items()},
            }
            new.append([cells.get(column, "") for column in header])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *kept, *new])
    write_text(path, text.getvalue())
    return path


def _cell(value: int | None) -> str:
    return "" if value is None else str(value)
