"""`tunas teach`."""

from __future__ import annotations

import dataclasses
from shlex import quote

from tunas.data.config import DataConfig
from tunas.flags import as_told
from tunas.recipe.config import TeachConfig


def run(config: TeachConfig) -> None:
    from tunas.recipe.teach import teach

    lecture = teach(config)
    there = lecture.shards - lecture.written
    print(
        f"{lecture.examples:,} images × {lecture.views} views, {lecture.classes} classes, in {lecture.shards} files"
        + (f" ({there} were there already)" if there else "")
    )
    data = [field.name for field in dataclasses.fields(DataConfig)]
    words = [quote(f"--teacher={lecture.directory}"), *as_told(config, [*data, "device"])]
    print(f"next: tunas train {' '.join(words)}")
