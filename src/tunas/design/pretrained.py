"""What trainings start from where the user names nothing: weights that the space's networks can inherit."""

from __future__ import annotations

from tunas.recipe.choose import PUBLISHED_FROM
from tunas.space import Space, Tower
from tunas.task import Task

AFRESH = "none"
"""--init_from that stands for no weights at all."""


def initial_weights(asked: str | None, space: Space, task: Task) -> tuple[str | None, str]:
    """(what trainings start from, None for fresh weights; the reason, empty where nothing is to be said).

    Nothing is downloaded: only files count that are on this machine.

    Args:
        asked: what the user named.
    """
    if asked is not None:
        return (None if asked == AFRESH else asked), "as asked for"
    size = task.size("train")
    if task.data is None or task.name == "digits" or size >= PUBLISHED_FROM or not isinstance(space.structure, Tower):
        return None, ""
    from tunas.nn.timm_space import around_of, local_weights

    around = around_of(space.structure)
    if around is None:
        return None, (
            f"no weights are known that networks of {space.name} could inherit; a space around one of timm's models "
            f"has some (tunas.space_around), and --init_from=FILE names others"
        )
    name = around.model_name
    file = local_weights(name)
    if file is None:
        return None, (
            f"the weights of timm's {name}, which networks of {space.name} could inherit, are not on this machine; "
            f"timm.create_model({name!r}, pretrained=True) fetches them, or --init_from=FILE names them"
        )
    return str(file), f"{size:,} training images are few, and networks of {space.name} inherit from timm's {name}"
