"""Fingerprints: of media and model files, which change with their contents, and of a loaded model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.qwen_omni import QwenOmni
from ..errors import MediaError
from .hub import on_hub

WHOLE = 16 << 20  # bytes: a file up to this size is read completely
BLOCK = 1 << 20
MODEL_FILES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
HEADER = 16 << 20  # bytes of a safetensors header that count
ROWS = 16  # of a matrix, which stand for all of it


def file_mark(path: Path) -> str:
    """A clip's fingerprint: of its size and all bytes up to 16 MiB; of a larger file, of 16 blocks of 1 MiB across it.

    A copy has the same fingerprint. A large file is not read twice: the disk's time belongs to the decoder.
    MediaError if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.sha256(f"{size}:".encode())
            if size <= WHOLE:
                digest.update(file.read())
                return digest.hexdigest()
            parts = WHOLE // BLOCK
            for i in range(parts):
                file.seek(i * (size - BLOCK) // (parts - 1))
                digest.update(file.read(BLOCK))
            return digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def features_mark(path: Path, mark: str) -> str:
    """The fingerprint of a clip in the feature cache: its `file_mark`, and above 16 MiB also its modification time.

    An edit in place may leave all samples of a large file unchanged, such as silence written over PCM audio.
    MediaError if the file cannot be read.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return mark if about.st_size <= WHOLE else f"{mark} {about.st_mtime_ns}"


def folder_mark(folder: Path) -> str:
    """A fingerprint of a model's or a sieve's own files. Subfolders do not count, and no weights are read."""
    return files_mark(path for path in folder.iterdir() if path.is_file() and path.suffix in MODEL_FILES)


def files_mark(paths: Iterable[Path]) -> str:
    """A fingerprint of files by name, size, modification time and safetensors header. No weights are read.

    OSError if one is missing.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        about = path.stat()
        digest.update(f"{path.name}:{about.st_size}:{about.st_mtime_ns}:{_header(path)}\n".encode())
    return digest.hexdigest()


def _header(path: Path) -> str:
    """Digest of a safetensors file's names, types and shapes; empty for another file."""
    if path.suffix != ".safetensors":
        return ""
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        return hashlib.sha256(file.read(min(length, HEADER))).hexdigest()


def _unreadable(path: Path, error: OSError) -> MediaError:
    reason = (error.strerror or str(error)).lower()
    return MediaError(f"{path} cannot be read: {reason}.", "Check the path.")


@dataclass(frozen=True)
class Identity:
    """A decoder by name and by its weights in bfloat16, so that neither folder nor precision matters.

    `weights`: digest of its norms and embeddings, which quantization does not change; None for float16, which loses
    the smallest values. `layers`: digest of its linear layers; None for float16 and for a quantized decoder. None
    is not compared.
    """

    id: str
    weights: str | None
    layers: str | None = None

    def is_of(self, other: Identity) -> bool:
        """Whether both are the same decoder, as far as both have digests."""
        pairs = ((self.weights, other.weights), (self.layers, other.layers))
        return all(mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None)


def identity_of(backbone: QwenOmni, id: str) -> Identity:
    """The identity of a loaded model's decoder, without LoRA that is not merged."""
    text = backbone.text
    norms = [norm.weight for layer in text.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    exact = backbone.dtype != torch.float16
    quantized = getattr(backbone.thinker, "is_quantized", False)
    linear = [part.weight for layer in text.layers for part in (layer.self_attn.q_proj, layer.mlp.down_proj)]
    return Identity(
        id=id if on_hub(id) else Path(id).name,
        weights=_digest([*norms, text.norm.weight, text.embed_tokens.weight]) if exact else None,
        layers=_digest(linear) if exact and not quantized else None,
    )


def encoders_mark(backbone: QwenOmni) -> str:
    """Digest of all weights of a loaded model's encoders in bfloat16, which changes with each training step."""
    model = backbone.thinker.model
    parts = [part.state_dict() for part in (model.visual, model.audio_tower)]
    return _digest((part[name] for part in parts for name in sorted(part)), rows=None)


def _digest(weights: Iterable[Tensor], rows: int | None = ROWS) -> str:
    """Of all weights, or of the first `rows` of each matrix."""
    digest = hashlib.sha256()
    for weight in weights:
        part = weight.detach()[:rows] if weight.ndim > 1 else weight.detach()
        digest.update(part.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
