"""The whole way: from a dataset and a device to a checked file. The package can be called: `tunas.design(config)` is
`tunas.design.design.design(config)`."""

from tunas.packages import make_callable

make_callable(__name__, "tunas.design.design", "design")
