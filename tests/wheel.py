"""Try the built wheel in a clean environment, from another folder: `python tests/wheel.py DIST TORCH`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

LIMIT = 40 * 2**20  # bytes: 25 MB of model, the SyncClips assets, the code
QUESTION = "Which object appears first?"


def main(dist: Path, torch: str) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {"epcli", "echoingpixels"} <= top, top
    assert "models" not in top, "nothing called `models` may land in site-packages"
    for wanted in (
        "assets/tiny/model.safetensors",
        "assets/tiny/sieve/sieve.json",
        "assets/syncclips/sprites/cat.webp",
        "assets/pages/explain.html",
        "assets/pages/serve.js",
    ):
        assert f"echoingpixels/{wanted}" in names, f"{wanted} is missing from the wheel"
    assert wheel.stat().st_size < LIMIT, f"{wheel.name} has {wheel.stat().st_size} bytes"

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        python, ep = home / "venv/bin/python", home / "venv/bin/ep"
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

        def run(*command: object) -> str:
            done = subprocess.run([str(c) for c in command], cwd=home, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            return done.stdout

        run(python, "-m", "pip", "install", "--quiet", torch)
        run(python, "-m", "pip", "install", "--quiet", wheel.resolve())
        clips = Path(run(ep, "synth", "clips", "--clips", 1, "--seed", 5).strip())
        media = home / "clips" / json.loads((home / clips).read_text().splitlines()[0])["media"]
        found = json.loads(run(ep, "ask", media, QUESTION, "--json"))
        assert found["answer"] and found["tokens"]["kept_ratio"] < 0.25, found
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MB, works from a clean environment")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
