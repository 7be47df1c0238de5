"""Stand-alone training and evaluation of one architecture (SPEC §4). The package can be called, as `tunas.search` can:
`tunas.train(config)` is `tunas.train.loop.train(config)`."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, config: Any) -> Any:
        from tunas.train.loop import train

        return train(config)


sys.modules[__name__].__class__ = _Callable
