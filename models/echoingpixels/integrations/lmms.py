"""A model class for lmms-eval, so that its harness can run this project's models on its tasks.

Found by the harness itself, through the entry point `lmms_eval.models`; imported by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from loguru import logger

from ..encoded_clip import EncodedClip
from ..errors import EpError, MediaError, OptionError
from ..from_pretrained import load
from ..options import AUTO, AskOptions, GenerateOptions, MediaOptions, read_keep

NAME = "echoingpixels"
MEDIA = ("video", "audio", "image")


def manifest() -> Any:
    """What the harness registers."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, chat_class_path=f"{__name__}.Lmms")


@dataclass(frozen=True)
class Prompt:
    """One request: a clip, perhaps a part of it, and the text about it."""

    media: Path
    start: float | None
    end: float | None
    question: str


class Lmms(lmms):  # type: ignore[misc]  # the harness has no types
    """One request at a time, each about one clip in a file; arguments are those of `ep evaluate`, in --model_args.

    Under `accelerate launch` each process has a GPU and a model of its own, and answers its share of the requests.

    A request that cannot be answered gets an empty answer, as the harness knows no failures; it is named, and how many
    there were is said at the end.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        sieve: str | None = None,
        quant: str = AUTO,
        dtype: str = AUTO,
        reducer: str = AUTO,
        keep: float | str = 0.2,
        fps: float = 2.0,
        max_frames: int = 120,
        max_pixels: int | None = None,
        audio: bool = True,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            raise OptionError(f"batch_size is {batch_size}.", "Leave it at 1: each request is answered alone.")
        self.choice = AskOptions(reducer, read_keep(str(keep)))
        self.reading = MediaOptions(fps=fps, max_frames=max_frames, audio=audio)
        where = self._join_processes() or device or AUTO
        self.ep = load(pretrained, sieve=sieve, quant=quant, device=where, dtype=dtype, max_pixels=max_pixels)
        self.ep.check(self.choice.reducer, self.choice.keep)
        self.failed, self._notes = 0, set[str]()
        self._last: tuple[object, EncodedClip] | None = None

    def _join_processes(self) -> str | None:
        """Take this process's share of the requests under `accelerate launch`; its own GPU, or None if it is alone."""
        accelerator = Accelerator()
        if accelerator.num_processes == 1:
            return None
        self.accelerator = accelerator  # the harness gathers results with it
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        return f"cuda:{accelerator.local_process_index}" if torch.cuda.is_available() else None

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.ep.backbone.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, in order."""
        said = []
        for request in requests:
            context, to_messages, settings, doc_id, task, split = request.args
            try:
                prompt = prompt_of(to_messages(self.task_dict[task][split][doc_id]))
                answer = self._answer(prompt, dict(settings))
            except EpError as error:
                self.failed += 1
                logger.error(f"{task}, {doc_id}: no answer, which the harness will count as a wrong one. {error}")
                answer = ""
            said.append(answer)
            self.cache_hook.add_partial("generate_until", (context, settings), answer)
        if self.failed:
            logger.error(f"{self.failed} requests so far have no answer, and are counted as wrong.")
        return said

    def _answer(self, prompt: Prompt, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        generate = GenerateOptions(
            max_new_tokens=int(settings.get("max_new_tokens") or GenerateOptions.max_new_tokens),
            temperature=float(settings.get("temperature") or 0.0),
        )
        options = AskOptions(self.choice.reducer, self.choice.keep, generate)
        text = self._clip(prompt).ask(prompt.question, options).text
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text

    def _clip(self, prompt: Prompt) -> EncodedClip:
        """The encoded clip; the last one is kept, since requests about one clip come together."""
        key = (prompt.media, prompt.start, prompt.end)
        if self._last is None or self._last[0] != key:
            self._last = None
            read = replace(self.reading, start=prompt.start, end=prompt.end)
            self._last = key, self.ep.encode(prompt.media, read)
            for note in set(self._last[1].source.notes) - self._notes:
                self._notes.add(note)
                logger.warning(note)
        return self._last[1]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: every request is one question."""
        raise NotImplementedError("echoingpixels answers one question at a time; this task asks in rounds.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: audio-visual tasks ask for text."""
        raise NotImplementedError("echoingpixels gives text, and this task wants likelihoods.")


def prompt_of(messages: Sequence[dict[str, Any]]) -> Prompt:
    """What a conversation asks; MediaError where it is not text about one file.

    System messages are left out: the model has its own.
    """
    parts = [part for message in messages if message["role"] == "user" for part in message["content"]]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    media = [part for part in parts if part["type"] in MEDIA]
    if any(message["role"] == "assistant" for message in messages):
        raise MediaError("The request is a conversation of several turns.", "Use tasks with one question.")
    paths = {str(part["url"]) for part in media if isinstance(part.get("url"), str | Path)}
    if len(paths) != 1 or len(media) != sum(isinstance(part.get("url"), str | Path) for part in media):
        raise MediaError(
            f"The request has {len(media)} media, {len(paths)} of them files.", "Use tasks about one file."
        )
    return Prompt(Path(*paths), media[0].get("start_time"), media[0].get("end_time"), "\n".join(texts).strip())
