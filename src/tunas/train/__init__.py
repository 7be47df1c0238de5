"""Stand-alone training and evaluation of one architecture (docs/algorithm.md#stand-alone-training). The package can be
called: `tunas.train(config)` is `tunas.train.loop.train(config)`."""

from tunas.packages import make_callable

make_callable(__name__, "tunas.train.loop", "train")
