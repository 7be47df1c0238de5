"""How the best architecture is found. The package can be called: `tunas.search(config)` is `tunas.search.loop.search(config)`."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Python puts the package in the place of the function of the same name in `tunas` as soon as anything imports it."""

    def __call__(self, config: Any) -> Any:
        from tunas.search.loop import search

        return search(config)


sys.modules[__name__].__class__ = _Callable
