"""The image files that the installed decoders read."""

from __future__ import annotations

from PIL import features

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
}
_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""What Pillow may be built without, and how it calls that."""


def _is_there(name: str) -> bool:
    feature = _OPTIONAL.get(name)
    return feature is None or feature in features.get_supported()


PILLOW_FORMATS = tuple(name for name in _EXTENSIONS if _is_there(name))
"""Pillow's names. Its other formats are none that datasets come in, and some of them start programs."""
IMAGE_EXTENSIONS = frozenset(extension for name in PILLOW_FORMATS for extension in _EXTENSIONS[name])
"""In lower case, with the dot."""
