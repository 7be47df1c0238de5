"""The architecture that the tests of exports train."""

from pathlib import Path

TINY = f"{Path(__file__).parent / 'tiny_space.py'}:tiny"
INDICES = "1:0:1:0:0:0:0:1"
