"""Still images, upright and in RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import MediaError
from .clip import Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")
ORIENTATION = 0x0112  # EXIF tag
ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}  # EXIF orientation → degrees counterclockwise
ANIMATED = ("GIF", "PNG", "AVIF")  # formats that FFmpeg reads as video when they hold several pictures


def read_still(path: Path) -> tuple[Pixels, str, int, tuple[str, ...]] | None:
    """Pixels (H, W, 3) uint8, format, degrees of rotation, warnings; None for anything but a still image."""
    if path.suffix.lower() in (".mjpeg", ".mjpg"):  # a video that begins like a JPEG
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
            name, animated = str(image.format), getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} is too large an image: {error}.", "Scale it down first.") from None
    except MemoryError:
        raise
    except Exception:  # on a damaged file Pillow's plugins raise exceptions of any type
        return None
    with image:
        if animated and name in ANIMATED:
            return None
        try:
            rotation = ROTATIONS.get(image.getexif().get(ORIENTATION, 1), 0)
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(_rgb(upright))
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise MediaError(
                f"{path} ({name}) cannot be decoded: {str(error).lower()}.",
                "It may be cut short: copy or download it again.",
            ) from None
    more = animated and name not in ("MPO", "ICO")  # the second picture of an MPO is the other eye or a preview
    return pixels, name.lower(), rotation, ("Only the first of its pictures is used.",) if more else ()


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white; 16-bit greys are scaled, where Pillow would clip them."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.int64)
        return Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
