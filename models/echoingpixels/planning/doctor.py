"""The check of this machine: packages, decoders, CUDA, quantization, memory and disk.

Uses no network. A trial that may crash or hang runs in a process of its own.
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
SERVER = ("fastapi", "uvicorn", "httpx", "python-multipart", "prometheus-client")  # the extra `serve`
PATIENCE = 120  # s for a package to load, on a busy machine
LITTLE = 1 << 30  # bytes of disk space that are not enough for any model
REINSTALL = "Install again: `pip install echoingpixels`."
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One part of the machine: its state, the finding, and a hint if it is not ok. `needed`: no answer without it."""

    name: str
    state: State
    seen: str
    hint: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Checkup:
    """All checks, and the known models with the memory they need."""

    checks: tuple[Check, ...]
    models: tuple[Entry, ...]

    @property
    def works(self) -> bool:
        """Whether this machine can answer questions."""
        return all(check.state == "ok" for check in self.checks if check.needed)


def checkup() -> Checkup:
    """Check this machine. A check that raises an error is reported as broken, and the next one runs."""
    checks = [Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    for name, run in CHECKS.items():
        checks += checked(name, run)
    models: tuple[Entry, ...] = ()

    def list_models() -> Iterator[Check]:
        nonlocal models
        from .catalog import known_models

        models = known_models()
        whole = models[0].folder is not None
        yield Check("bundled model", "ok" if whole else "missing", models[0].name, "" if whole else REINSTALL)

    checks += checked("models", list_models)
    return Checkup(tuple(checks), models)


def checked(name: str, run: Callable[[], Iterator[Check]]) -> list[Check]:
    """The results of a check; any error is a broken one."""
    done: list[Check] = []
    try:
        done.extend(run())
    except Exception as error:  # the other checks are still worth running
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        done.append(Check(name, "broken", reason, REINSTALL))
    return done


def _packages() -> Iterator[Check]:
    """Every required package, and whether its version is in range."""
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
        if wanted.specifier.contains(version, prereleases=True):
            yield Check(wanted.name, "ok", version)
        else:
            yield Check(wanted.name, "broken", f"{version}, but {wanted.specifier} is needed", hint)


def _cuda() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        name, version = torch.cuda.get_device_name(), torch.version.cuda or torch.version.hip
        finding = f"{name}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free, CUDA {version}, driver {driver()}"
        yield Check("CUDA", "ok", finding, needed=False)
        yield _matmul()
    elif torch.version.cuda is None:
        hint = "For an NVIDIA card, install torch with CUDA (pytorch.org); `tiny` runs well on a CPU."
        yield Check("CUDA", "missing", f"torch {torch.__version__} is built without it", hint, needed=False)
    else:
        hint = "Check that `nvidia-smi` finds the card, and that its driver is new enough."
        finding = f"torch is built for CUDA {torch.version.cuda}, but finds no device; driver {driver()}"
        yield Check("CUDA", "missing", finding, hint, needed=False)


def _matmul() -> Check:
    """Whether the device multiplies matrices in the dtype of loaded models: a torch may lack its kernels."""
    import torch

    from ..checkpoints.loading import device_dtype

    device, dtype = torch.device("cuda"), device_dtype(torch.device("cuda"))
    major, minor = torch.cuda.get_device_capability(device)
    finding = f"{str(dtype).removeprefix('torch.')}, compute capability {major}.{minor}"
    hint = "Install a torch built for this card (pytorch.org), or use --device cpu."
    try:
        ones = torch.ones(64, 64, device=device, dtype=dtype)
        right = bool(((ones @ ones) == 64).all())
    except RuntimeError as error:
        right, finding = False, f"{finding}: {str(error).strip().splitlines()[0]}"
    return Check("CUDA product", "ok" if right else "broken", finding, "" if right else hint, needed=False)


def driver() -> str:
    """The version of NVIDIA's driver."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return out.split("\n")[0].strip() or "unknown"
    return "unknown"


def _bitsandbytes() -> Iterator[Check]:
    """Whether weights can be quantized: by a trial, as an installed bitsandbytes may not fit this machine."""
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        hint = "`--quant nf4` and int8 need it: `pip install 'echoingpixels[quant]'`."
        yield Check("bitsandbytes", "missing", "not installed", hint, needed=False)
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
    reason = (done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"])[-1]
    yield Check("bitsandbytes", "broken", f"{version} does not work: {reason}", hint, needed=False)


def _server() -> Iterator[Check]:
    """Whether the packages of `ep serve` are installed."""
    found: dict[str, str] = {}
    for name in SERVER:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    missing = [name for name in SERVER if name not in found]
    if missing:
        hint = "`ep serve` needs it: `pip install 'echoingpixels[serve]'`."
        yield Check("server", "missing", f"{', '.join(missing)} not installed", hint, needed=False)
    else:
        yield Check("server", "ok", ", ".join(f"{name} {found[name]}" for name in SERVER), needed=False)


def _ray() -> Iterator[Check]:
    """Whether Ray is installed, for `--engine ray` of `ep serve` and `ep batch`."""
    try:
        yield Check("ray", "ok", f"ray {metadata.version('ray')}", needed=False)
    except metadata.PackageNotFoundError:
        hint = "`--engine ray` needs it: `pip install 'echoingpixels[ray]'`."
        yield Check("ray", "missing", "ray not installed", hint, needed=False)


def _decoders() -> Iterator[Check]:
    import av

    lacking = [name for name in DECODERS if not _decodes(name)]
    present = ", ".join(name for name in DECODERS if name not in lacking)
    hint = "Install PyAV from its own wheel: `pip install --force-reinstall --only-binary av av`."
    broken = not set(NEEDED).isdisjoint(lacking)
    finding = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: {present}"
    yield Check("decoders", "broken" if broken else "ok", finding, hint if broken else "")
    if lacking and not broken:
        yield Check("other decoders", "missing", f"no {', '.join(lacking)}", hint, needed=False)


def _decodes(name: str) -> bool:
    import av

    try:
        av.codec.Codec(name, "r")
    except ValueError:  # PyAV's error for an unknown codec
        return False
    return True


def _memory() -> Iterator[Check]:
    import torch

    from .estimate import free_memory

    free = free_memory(torch.device("cpu"))
    finding = "this system does not report it" if free is None else f"{free / 1e9:.1f} GB available"
    yield Check("memory", "ok", finding, needed=False)


def _disk() -> Iterator[Check]:
    """Space for downloads and for the feature cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from ..features.cache import default_folder

    for name, folder in (("hub cache", Path(HF_HUB_CACHE)), ("feature cache", default_folder())):
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        enough = free > LITTLE
        hint = "" if enough else "Free some space, or choose another folder: HF_HOME for models, --cache-dir for clips."
        yield Check(name, "ok" if enough else "missing", f"{free / 1e9:.1f} GB free in {folder}", hint, needed=False)


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    "packages": _packages,
    "CUDA": _cuda,
    "bitsandbytes": _bitsandbytes,
    "server": _server,
    "ray": _ray,
    "decoders": _decoders,
    "memory": _memory,
    "disk": _disk,
}
