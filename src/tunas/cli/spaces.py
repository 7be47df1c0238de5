"""`tunas spaces`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional


@dataclass(frozen=True)
class SpacesConfig:
    """List the search spaces; or print the tree of one, or the layers of one of its architectures."""

    name: Annotated[str, Positional] = ""
    """Space to print: a name from the list, or module:function or file.py:function of your own."""

    indices: str | None = None
    """Colon-separated indices of an architecture of it."""


def run(config: SpacesConfig) -> None:
    from tunas.flags import refuse
    from tunas.space import Tower, get_space, space_names
    from tunas.space.describe import format_table, structure_tree, tower_tree

    if not config.name:
        refuse(config, ["indices"], "without the name of their search space")
        spaces = [get_space(name) for name in space_names()]
        rows = [
            (
                space.name,
                str(space.num_choices),
                f"{space.count():.3g}",
                f"{space.count_distinct():.3g}",
                f"{space.default_target or '':}",
            )
            for space in spaces
        ]
        print(format_table(("space", "OneOfs", "index strings", "distinct networks", "target (ms)"), rows))
        return
    space = get_space(config.name)
    if config.indices is not None or not space.num_choices:
        print(space.architecture(config.indices or ""))
    else:
        tree = tower_tree if isinstance(space.structure, Tower) else structure_tree
        print(tree(repr(space), space.structure))
