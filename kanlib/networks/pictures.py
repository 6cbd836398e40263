"""One picture of any format and mode, as RGB."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kanlib.errors import BadInputError, cause

#: They are drawn by another program, which a picture must not start.
_NEVER = ("EPS", "WMF")
_BITS, _BLACK_AND_WHITE = 258, 262


def opened(file: Path) -> Image.Image:
    """The picture in a file, as :func:`rgb` gives it; of several frames the first.

    Raises:
        BadInputError: there is no such file, it is no regular one, it is not a picture, is damaged or has more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, or as :func:`rgb`.
    """
    if not there(file):
        raise _unreadable(file, "there is no such file, or it is no regular one")
    Image.preinit()
    Image.init()
    try:
        with warnings.catch_warnings():
            # Many photographs have EXIF data that warns of itself, and pixels that are whole.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=[kind for kind in Image.ID if kind not in _NEVER]) as image:
                return rgb(image, named(file))
    except BadInputError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(file, "it is of no known format") from error
    # Dozens of decoders read a stranger's file, and raise whatever its bytes lead them to.
    except Exception as error:
        raise _unreadable(file, cause(error)) from error


def rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A picture of any mode as RGB of 8 bits, upright.

    It is turned as its EXIF orientation says, and what is transparent is laid over white. Grey values of 16 bits
    are divided by 257, those of 12 bits by 4095/255, fractions from 0 to 1 are multiplied by 255, and each is
    rounded. RGB stays as it is.

    Args:
        image: to be converted; it is left as it is.
        name: of the picture, the first words of a refusal.

    Raises:
        BadInputError: no pixels, integers beyond 16 bits, fractions beyond 0 to 1 or not finite, integers of more
            than 8 bits that would all be black if they were read as 16, or a transparent colour of 16 bits.
    """
    if not (image.width and image.height):
        raise BadInputError(f"{name} has no pixels; replace it or leave it out.")
    # How a file packs its pixels is known until they are decoded.
    deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    upright = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(image, np.asarray(upright), name)).convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and (deep or max(clear) > 255):
        raise BadInputError(
            f"{name} has a transparent colour of 16 bits in a picture that is read in 8; save it with an alpha "
            "channel."
        )
    seen = (upright.convert("LA") if image.mode == "La" else upright).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _grey(image: Image.Image, values: np.ndarray, name: str) -> np.ndarray:
    """Grey values of more than 8 bits, ``[H, W]``, in 8."""
    tags: Any = getattr(image, "tag_v2", {})
    low, high = values.min(), values.max()
    top = 1 if image.mode == "F" else 4095 if tags.get(_BITS) == (12,) else 65535
    # Not a number is not in the range either.
    if not (low >= 0 and high <= top):
        kind = "fractions" if image.mode == "F" else "integers"
        raise BadInputError(
            f"{name} has grey values from {low:g} to {high:g}, expected {kind} from 0 to {top}; scale them to "
            "that, or save it with 8 bits."
        )
    if image.mode == "I" and image.format not in ("PPM", "PNG") and 0 < high < 256:
        raise BadInputError(
            f"{name} has grey values from {low} to {high} in 32 bits, expected up to 65535, of which these are "
            "all black; save it with 8 bits."
        )
    # Grey TIFFs of more than 8 bits come as they are stored, though some of them count from white.
    lit = top - values if tags.get(_BLACK_AND_WHITE) == 0 else values
    scaled = np.rint(lit.astype(np.float64) * 255 / top).astype(np.uint8)
    clear = image.info.get("transparency")
    return np.where(values == clear, np.uint8(255), scaled) if isinstance(clear, int) else scaled


def there(file: Path) -> bool:
    """Whether it is a regular file; what no file can be called is none."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def named(path: Path | str, most: int = 150) -> str:
    """A path, as a sentence can bear it: on one line, and of a long one its end."""
    text = repr(str(path))[1:-1]
    return text if len(text) <= most else f"…{text[-most:]}"


def _unreadable(file: Path, why: str) -> BadInputError:
    return BadInputError(f"{named(file)} is not a readable image ({why}); replace it or leave it out.")
