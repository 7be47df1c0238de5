"""From a trained network to the files that a device runs, checked in the runtime that will run them
(docs/algorithm.md#int8). The package can be called: `tunas.export(config)` is `tunas.export.export.export(config)`."""

from tunas.packages import make_callable

make_callable(__name__, "tunas.export.export", "export")
