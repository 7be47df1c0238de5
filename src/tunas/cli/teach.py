"""`tunas teach`."""

from __future__ import annotations

from tunas.recipe.config import TeachConfig


def run(config: TeachConfig) -> None:
    from tunas.recipe.teach import teach

    lecture = teach(config)
    there = lecture.shards - lecture.written
    print(
        f"{lecture.examples:,} images × {lecture.views} views, {lecture.classes} classes, in {lecture.shards} files"
        + (f" ({there} were there already)" if there else "")
    )
    print(f"next: tunas train --teacher={lecture.directory} …")
