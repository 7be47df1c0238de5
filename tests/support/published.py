"""The packaged search spaces, and an architecture of two of them with its published latency."""

SEARCH_SPACES = ("proxylessnas_search", "proxylessnas_enlarged_search", "mobilenet_v3_like_search")
EXAMPLE_V3 = (
    "0:0:1:1:1:3:1:0:0:1:1:0:0:0:1:0:0:0:1:2:2:4:1:0:2:1:0:0:1:0:0:0:2:0:0:3:2:5:1:0:2:0:0:0:1:0:0:1:1:1:"
    "0:4:1:5:1:0:0:0:1:0:1:1:0:0:0:1:0:3:1:5:1:2:1:1:0:2:1:1:0:2:1:1:0:2:6:6"
)
"""Of `mobilenet_v3_like_search`; 56.575 ms on a Pixel 1."""
EXAMPLE_PROXYLESS = (
    "0:0:0:1:0:0:0:0:1:0:0:1:0:0:1:0:1:1:0:1:0:0:1:0:0:0:0:0:0:2:1:0:1:1:0:2:1:0:2:1:0:0:1:1:0:0:0:0:1:0:"
    "0:1:0:0:0:1:1:0:2:0:0:0:0:0:1:0:0:0:2:1:0:0:0"
)
"""Of `proxylessnas_search`; 84.017 ms on a Pixel 1."""
