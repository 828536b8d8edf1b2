"""TIFFs of which Pillow makes something else than what they say."""

from __future__ import annotations

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

# Pillow's own way takes a plane of 16 bits for one of 8, and one whose zero is white for an ordinary one.
TiffImagePlugin.READ_LIBTIFF = True
# What is read in one order of bytes, in the other one; libtiff gives values in the machine's own.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16N"))
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 1, (1,), 1, (32,), ()), ("I", "I;32N"))
# Pillow asks for these as the file has them, and they are swapped already.
_SWAPPED = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS"}
# PhotometricInterpretation (TIFF 6.0, section 8), and what it is where zero is white; PlanarConfiguration.
_PHOTOMETRIC, _ZERO_IS_WHITE = 262, 0
_COLOUR_MAP = 320
_PLANAR, _IN_PLANES = 284, 2


def mended(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """A picture that was opened and not yet loaded; a TIFF is then read as it says."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    image.tile = [
        tile._replace(args=(_SWAPPED.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]
    colours = image.tag_v2.get(_COLOUR_MAP, ())
    if image.mode in ("P", "PA") and max(colours, default=0) < 256:
        # Many write 8 bits where there should be 16.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    return image


def zero_is_white(image: Image.Image) -> bool:
    """Whether whole numbers of 16 bits, which Pillow leaves as they are, tell how dark it is."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.mode.startswith("I;16")
        and image.tag_v2.get(_PHOTOMETRIC) == _ZERO_IS_WHITE
    )


def in_planes(image: Image.Image) -> bool:
    """Whether its colours lie one after another; of 16 bits Pillow then gives only the upper 8."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PLANAR) == _IN_PLANES
