"""Task encoders: both encoders learn to classify the object or sound of each token. Their heads are discarded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs import patches as frames
from echoingpixels.inputs.mel import log_mel
from echoingpixels.inputs.prepare import audio_tokens

from . import labels
from .build import notice_change
from .recipe import TinyStage
from .sample import lossy, planned, scene_of, soundtrack

SAMPLED_FPS = 2.0
MAX_SIDE = 256  # px, the longer side of training pictures
NOTHING_WEIGHT = 0.25  # of class 0, the class of most tokens
AMPLIFIED = 2.0  # factor on what tells apart quadrants, and onsets: 5 and 2 % of the features' variance (docs/log.md)


class Batches(Dataset[dict[str, Any]]):
    """Random temporal steps and whole sounds of new clips, with the targets of the encoders. Items do not change."""

    def __init__(self, stage: TinyStage, seed: int, resolution: frames.Resolution) -> None:
        self.stage, self.seed, self.resolution = stage, seed, resolution

    def __len__(self) -> int:
        return self.stage.steps * self.stage.accumulate

    def __getitem__(self, item: int) -> dict[str, Any]:
        per = self.stage.batch
        return self._join([self._clip(item * per + i) for i in range(per)])

    def _clip(self, index: int) -> dict[str, list[Any]]:
        rng = np.random.default_rng([self.seed, index, 7])
        timeline = planned(self.seed, index)
        scene = scene_of(timeline, MAX_SIDE)
        size = self.resolution.size(timeline.height, timeline.width)
        rows, columns = size[0] // frames.FACTOR, size[1] // frames.FACTOR
        names = ("patches", "grid", "object", "quadrant", "mel", "sound", "onset")
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(self.stage.moments if timeline.of("object") else 1):
            start = rng.uniform(0, timeline.duration - 0.5)
            times = (start, start + 1 / SAMPLED_FPS)
            quality = int(rng.integers(20, 95))
            patches, grid = frames.patches(np.stack([lossy(scene.frame(t), quality) for t in times]), size)
            parts["patches"].append(patches)
            parts["grid"].append(grid)
            parts["object"].append(torch.stack([labels.objects(scene, t, rows, columns) for t in times], 1))
            parts["quadrant"].append(labels.quadrant(rows, columns))
        wave = soundtrack(timeline, rng)
        if wave is not None:
            mel = log_mel(wave)
            what, onset = labels.sounds(timeline, audio_tokens(mel.shape[1]))
            parts["mel"].append(mel)
            parts["sound"].append(what)
            parts["onset"].append(onset)
        return parts

    @staticmethod
    def _join(clips: list[dict[str, list[Any]]]) -> dict[str, Any]:
        batch = {name: [part for clip in clips for part in clip[name]] for name in clips[0]}
        video = {name: torch.cat(batch[name]) for name in ("patches", "object", "quadrant")}
        lengths = torch.tensor([m.shape[1] for m in batch["mel"]])
        sounds = {name: torch.cat(batch[name]) for name in ("sound", "onset")}
        mel, grid = torch.cat(batch["mel"], 1), torch.tensor(batch["grid"])
        return video | sounds | {"grid": grid, "mel": mel, "lengths": lengths}


class VideoHeads(nn.Module):
    """Heads for the object in each cell, frame by frame, and for the quadrant of the cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.object = nn.Linear(width, 2 * len(labels.OBJECT_CLASSES))
        self.quadrant = nn.Linear(width, 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (Nv, D) → float32 logits (2 Nv, objects) and (Nv, 4)."""
        return self.object(features).unflatten(-1, (2, -1)).flatten(0, 1).float(), self.quadrant(features).float()

    @staticmethod
    def loss(logits: tuple[Tensor, Tensor], batch: dict[str, Any]) -> Tensor:
        """Cross entropy of both."""
        objects, quadrant = logits
        total = F.cross_entropy(objects, batch["object"].flatten(), weight=_weights(objects))
        if bool((batch["quadrant"] >= 0).any()):  # pictures of one token have none
            total = total + 0.3 * F.cross_entropy(quadrant, batch["quadrant"])
        return total

    @staticmethod
    def figures(logits: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, float]:
        """Their accuracies."""
        parts = zip(("object", "quadrant"), logits, strict=True)
        return dict(figure for name, part in parts for figure in figures(part, batch[name].flatten(), name))


class Taught(nn.Module):
    """Both encoders with their temporary heads."""

    def __init__(self, backbone: QwenOmni) -> None:
        super().__init__()
        self.visual = backbone.thinker.model.visual
        self.audio_tower = backbone.thinker.model.audio_tower
        width = backbone.shape.width
        self.video_heads = VideoHeads(width)
        self.sound = nn.Linear(width, len(labels.SOUND_CLASSES))
        self.onset = nn.Linear(width, 2)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of every head, and their accuracies."""
        with sdpa_kernel(SDPBackend.MATH):  # many short sequences: on a CPU a step takes 0.7 of the time
            video = self.video_heads(self.visual(batch["patches"], grid_thw=batch["grid"]).pooler_output)
            audio = self.audio_tower(batch["mel"], feature_lens=batch["lengths"]).last_hidden_state
        sound, onset = self.sound(audio).float(), self.onset(audio).float()
        total = (
            self.video_heads.loss(video, batch)
            + F.cross_entropy(sound, batch["sound"], weight=_weights(sound))
            + 0.3 * F.cross_entropy(onset, batch["onset"])
        )
        return total, {**self.video_heads.figures(video, batch), **dict(figures(sound, batch["sound"], "sound"))}

    @torch.no_grad()
    def align(self, backbone: QwenOmni, given: dict[str, Any]) -> None:
        """Prepare the start of the decoder: features and embeddings get one length, names the direction of their class.

        Without this, questions that name something ("Does the cat appear?") stay at chance (docs/log.md). What tells
        quadrants and onsets apart is amplified. Output weights start as the directions of names and sides, too: what a
        layer copies from a token is then its answer.
        """
        amplify(self.visual.merger.mlp[-1], self.video_heads.quadrant.weight, AMPLIFIED)
        amplify(self.audio_tower.proj, self.onset.weight, AMPLIFIED)
        batch = {name: tensor.to(backbone.device) for name, tensor in given.items()}
        video = self.visual(batch["patches"], grid_thw=batch["grid"]).pooler_output
        audio = self.audio_tower(batch["mel"], feature_lens=batch["lengths"]).last_hidden_state
        embeddings, outputs = backbone.text.embed_tokens.weight, backbone.thinker.lm_head.weight
        length = embeddings.norm(dim=-1).median()
        for last, features in ((self.visual.merger.mlp[-1], video), (self.audio_tower.proj, audio)):
            scale = length / features.norm(dim=-1).mean()
            last.weight.mul_(scale)
            last.bias.mul_(scale)
        ticks = round(frames.STEP / SAMPLED_FPS * backbone.layout.positions_per_s)
        notice_change(backbone.text, self._objects(), ticks)
        for name, direction in self._directions():
            for text in (name, f" {name}"):
                first, *rest = backbone.tokenizer.encode(text, add_special_tokens=False)
                if not rest:
                    outputs[first] = direction / direction.norm() * length
                    if name not in labels.SIDES:
                        embeddings[first] = outputs[first]

    def _directions(self) -> Iterator[tuple[str, Tensor]]:
        """What the heads read as each object, sound and side of the picture: (D,)."""
        yield from zip(labels.OBJECT_CLASSES[1:], self._objects(), strict=True)
        yield from zip(labels.SOUND_CLASSES[1:], self.sound.weight[1:], strict=True)
        signs = torch.tensor([[1, 1, -1, -1], [-1, -1, 1, 1], [1, -1, 1, -1], [-1, 1, -1, 1]])
        quadrant = self.video_heads.quadrant.weight
        yield from zip(labels.SIDES, signs.to(quadrant) @ quadrant, strict=True)

    def _objects(self) -> Tensor:
        """What the head reads as each object, in the mean of the two frames: (objects, D)."""
        head = self.video_heads.object
        return head.weight.view(2, -1, head.in_features).mean(0)[1:]


@torch.no_grad()
def amplify(layer: nn.Linear, head: Tensor, factor: float) -> None:
    """Scale the part of a layer's output that tells apart the classes of a head (C, D) on it."""
    span = torch.linalg.svd(head - head.mean(0), full_matrices=False).Vh[:-1]  # (C - 1, D), orthonormal
    for part in (layer.weight, layer.bias):
        part.add_((factor - 1) * span.T @ (span @ part))


def _weights(logits: Tensor) -> Tensor:
    """Weights of the classes (C,) in the loss."""
    weights = torch.ones(logits.shape[1], device=logits.device)
    weights[0] = NOTHING_WEIGHT
    return weights


def figures(logits: Tensor, labels: Tensor, name: str) -> Iterator[tuple[str, float]]:
    """Accuracy over all labelled tokens and over those that are not class 0."""
    right = logits.argmax(-1) == labels
    for figure, scored in ((name, labels >= 0), (f"{name}_found", labels > 0)):
        if bool(scored.any()):
            yield figure, float(right[scored].float().mean())
