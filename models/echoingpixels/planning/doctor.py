"""Whether this machine has what is needed: packages, decoders, CUDA, quantization, memory and disk.

Looks only here, never into the network. What may crash or hang is tried in a process of its own.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .catalog import Entry

PACKAGE = "echoingpixels"
DECODERS = ("h264", "aac", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
NEEDED = ("h264", "aac")
QUANTIZE = "import torch, bitsandbytes.functional as f; f.quantize_4bit(torch.ones(64, 64), quant_type='nf4')"
PATIENCE = 120  # s for a package to load, on a busy machine
LITTLE = 1 << 30  # bytes of disk that are too few for anything
AGAIN = "Install again: `pip install echoingpixels`."
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `needed`: nothing works without it. `hint` says what to do where it is not ok."""

    name: str
    state: State
    seen: str
    hint: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Checkup:
    """All checks, and the models with what they need; `works` where all that is needed is there."""

    checks: tuple[Check, ...]
    models: tuple[Entry, ...]

    @property
    def works(self) -> bool:
        """Whether an answer can be had here."""
        return all(check.state == "ok" for check in self.checks if check.needed)


def checkup() -> Checkup:
    """Look at this machine. A check that fails in a way no one thought of is broken, and the others are made."""
    looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("packages", _packages),
        ("CUDA", _cuda),
        ("bitsandbytes", _bitsandbytes),
        ("decoders", _decoders),
        ("memory", _memory),
        ("disk", _disk),
    )
    checks = [Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    for name, look in looks:
        with _told(name, checks):
            checks += look()
    models: tuple[Entry, ...] = ()
    with _told("models", checks):
        from .catalog import known_models

        models = known_models()
        checks += _tiny(models)
    return Checkup(tuple(checks), models)


class _told(suppress):  # noqa: N801
    """Turns any error into a broken check: a doctor does not fall ill."""

    def __init__(self, name: str, checks: list[Check]) -> None:
        super().__init__(Exception)
        self._name, self._checks = name, checks

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        swallowed = kind is not None and issubclass(kind, Exception)
        if swallowed:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._checks.append(Check(self._name, "broken", said, AGAIN))
        return swallowed


def _packages() -> Iterator[Check]:
    """Every package that is always needed, and whether its version is in range."""
    from packaging.requirements import Requirement

    for line in metadata.requires(PACKAGE) or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        hint = f"Run `pip install '{wanted.name}{wanted.specifier}'`."
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Check(wanted.name, "missing", "not installed", hint)
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        seen = version if fits else f"{version}, but {wanted.specifier} is needed"
        yield Check(wanted.name, "ok" if fits else "broken", seen, "" if fits else hint)


def _cuda() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        name, version = torch.cuda.get_device_name(), torch.version.cuda or torch.version.hip
        seen = f"{name}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free, CUDA {version}, driver {_driver()}"
        yield Check("CUDA", "ok", seen, needed=False)
        yield _matmul()
        return
    if torch.version.cuda is None:
        hint = "For an NVIDIA card, install torch as pytorch.org says; without one, `tiny` is quick enough on a CPU."
        yield Check("CUDA", "missing", f"torch {torch.__version__} is built without it", hint, needed=False)
        return
    hint = "See whether `nvidia-smi` finds the card, and whether its driver is new enough."
    seen = f"torch is built for CUDA {torch.version.cuda}, but finds no device; driver {_driver()}"
    yield Check("CUDA", "missing", seen, hint, needed=False)


def _matmul() -> Check:
    """Whether the device runs a product in the dtype that models are loaded in: a torch may lack its kernels."""
    import torch

    from ..checkpoints.loading import device_dtype

    device, dtype = torch.device("cuda"), device_dtype(torch.device("cuda"))
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{str(dtype).removeprefix('torch.')}, compute capability {major}.{minor}"
    hint = "Install a torch built for this card, as pytorch.org says, or use --device cpu."
    try:
        ones = torch.ones(64, 64, device=device, dtype=dtype)
        right = bool(((ones @ ones) == 64).all())
    except RuntimeError as error:
        return Check("CUDA product", "broken", f"{name}: {str(error).strip().splitlines()[0]}", hint, needed=False)
    return Check("CUDA product", "ok" if right else "broken", name, "" if right else hint, needed=False)


def _driver() -> str:
    """The version of NVIDIA's driver."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return said.split("\n")[0].strip() or "unknown"
    return "unknown"


def _bitsandbytes() -> Iterator[Check]:
    """Whether weights can be quantized: tried, since an installed bitsandbytes may not fit this machine."""
    install = "`--quant nf4` and int8 need it: `pip install 'echoingpixels[quant]'`."
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        yield Check("bitsandbytes", "missing", "not installed", install, needed=False)
        return
    hint = "Models run without --quant; to repair it, `pip install --force-reinstall bitsandbytes`."
    try:
        done = subprocess.run([sys.executable, "-c", QUANTIZE], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        yield Check("bitsandbytes", "broken", f"{version} does not load within {PATIENCE} s", hint, needed=False)
        return
    if done.returncode == 0:
        yield Check("bitsandbytes", "ok", version, needed=False)
        return
    said = (done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"])[-1]
    yield Check("bitsandbytes", "broken", f"{version} does not work: {said}", hint, needed=False)


def _decoders() -> Iterator[Check]:
    import av

    lacking = [name for name in DECODERS if not _decodes(av, name)]
    versions = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    there = ", ".join(name for name in DECODERS if name not in lacking)
    hint = "Install PyAV from its own wheel: `pip install --force-reinstall --only-binary av av`."
    missing = [name for name in NEEDED if name in lacking]
    said = f"{versions}: {there}"
    yield Check("decoders", "broken" if missing else "ok", said, hint if missing else "")
    if lacking and not missing:
        yield Check("other decoders", "missing", f"no {', '.join(lacking)}", hint, needed=False)


def _decodes(av: object, name: str) -> bool:
    try:
        av.codec.Codec(name, "r")  # type: ignore[attr-defined]
    except ValueError:  # PyAV's own for a codec it does not know
        return False
    return True


def _memory() -> Iterator[Check]:
    import torch

    from .estimate import free_memory

    free = free_memory(torch.device("cpu"))
    seen = "this system does not tell" if free is None else f"{free / 1e9:.1f} GB may be used"
    yield Check("memory", "ok", seen, needed=False)


def _disk() -> Iterator[Check]:
    """Room for what is downloaded and for what is kept of clips."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from ..features.cache import default_folder

    for name, folder in (("hub cache", Path(HF_HUB_CACHE)), ("feature cache", default_folder())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        enough = free > LITTLE
        hint = "" if enough else "Make room, or choose another folder: HF_HOME for models, --cache-dir for clips."
        yield Check(name, "ok" if enough else "missing", f"{free / 1e9:.1f} GB free in {folder}", hint, needed=False)


def _tiny(models: tuple[Entry, ...]) -> Iterator[Check]:
    whole = models[0].folder is not None
    yield Check("bundled model", "ok" if whole else "missing", models[0].name, "" if whole else AGAIN)
