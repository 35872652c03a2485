"""Still images, upright and in RGB. Knows nothing about video."""

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
MOVING = ("GIF", "PNG", "AVIF")  # formats that FFmpeg reads as video when they hold several pictures


def read_still(path: Path) -> tuple[Pixels, str, int, tuple[str, ...]] | None:
    """Pixels (H, W, 3) uint8, format, degrees turned, warnings; None if `path` holds no image, or an animated one."""
    if path.suffix.lower() in (".mjpeg", ".mjpg"):  # a video that begins like a photograph
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
            name, moving = str(image.format), getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} is too large an image: {error}.", "Scale it down first.") from None
    except MemoryError:
        raise
    except Exception:  # on a damaged file Pillow's plugins raise whatever they stumble over
        return None
    with image:
        if moving and name in MOVING:
            return None
        try:
            turned = ROTATIONS.get(image.getexif().get(ORIENTATION, 1), 0)
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(_rgb(upright))
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise MediaError(
                f"{path} ({name}) cannot be decoded: {str(error).lower()}.",
                "It may be cut short: copy or download it again.",
            ) from None
    more = moving and name not in ("MPO", "ICO")  # an MPO's second picture is the other eye or a preview
    return pixels, name.lower(), turned, ("Only the first of its pictures is used.",) if more else ()


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white; 16-bit greys are scaled, where Pillow would cut them off."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.int64)
        return Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
