"""How the best architecture is found. The package can be called: `tunas.search(config)` is
`tunas.search.loop.search(config)`."""

from tunas.packages import make_callable

make_callable(__name__, "tunas.search.loop", "search")
