"""The model class for lmms-eval, which finds it through the entry point `lmms_eval.models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from loguru import logger

from ..encoded_clip import EncodedClip
from ..errors import EpError, MediaError, OptionError
from ..from_pretrained import load
from ..options import AUTO, AskOptions, GenerateOptions, LoadOptions, MediaOptions, Quant

NAME = "echoingpixels"
MEDIA = ("video", "audio", "image")
ONE_QUESTION = "Use tasks with one question."


def manifest() -> Any:
    """The entry of the harness's model registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, chat_class_path=f"{__name__}.Lmms")


@dataclass(frozen=True)
class Request:
    """One request: a question about a clip or a part of it."""

    media: Path
    start: float | None
    end: float | None
    question: str


class Lmms(lmms):  # type: ignore[misc]  # the harness has no types
    """Answers one request at a time about one media file; --model_args are the options of `ep evaluate`.

    Under `accelerate launch` each process has its own GPU and model, and answers its share of the requests. The harness
    has no failures: a request that fails is logged and gets an empty answer.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        sieve: str | None = None,
        quant: str = AUTO,
        dtype: str = AUTO,
        reducer: str = AUTO,
        keep: float = 0.2,
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
        self.choice = AskOptions(reducer, float(keep))
        self.reading = MediaOptions(fps=fps, max_frames=max_frames, audio=audio)
        where = self._join_processes() or device or AUTO
        how = LoadOptions(cast(Quant, quant), sieve=sieve, max_pixels=max_pixels, dtype=dtype, keep=self.choice.share)
        self.ep = load(pretrained, how, device=where)
        self.ep.check(self.choice.reducer, self.choice.keep)
        self.failed, self._notes = 0, set[str]()
        self._last: tuple[object, EncodedClip] | None = None

    def _join_processes(self) -> str | None:
        """Take a share of the requests under `accelerate launch`; its GPU, None for a single process."""
        accelerator = Accelerator()
        if accelerator.num_processes == 1:
            return None
        self.accelerator = accelerator  # the harness gathers results with it
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        return f"cuda:{accelerator.local_process_index}" if torch.cuda.is_available() else None

    @property
    def device(self) -> Any:
        """The device of the model."""
        return self.ep.backbone.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to requests, in order."""
        answers = []
        for request in requests:
            context, to_messages, settings, doc_id, task, split = request.args
            try:
                asked = request_of(to_messages(self.task_dict[task][split][doc_id]))
                answer = self._answer(asked, dict(settings))
            except EpError as error:
                self.failed += 1
                logger.error(f"{task}, {doc_id}: no answer, which the harness counts as wrong. {error}")
                answer = ""
            answers.append(answer)
            self.cache_hook.add_partial("generate_until", (context, settings), answer)
        if self.failed:
            logger.error(f"{self.failed} requests so far have no answer and count as wrong.")
        return answers

    def _answer(self, request: Request, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        generate = GenerateOptions(
            max_new_tokens=int(settings.get("max_new_tokens") or GenerateOptions.max_new_tokens),
            temperature=float(settings.get("temperature") or 0.0),
        )
        options = AskOptions(self.choice.reducer, self.choice.keep, generate, evidence=False, reuse_prefix=False)
        text = self._clip(request).ask(request.question, options).text
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text

    def _clip(self, request: Request) -> EncodedClip:
        """The encoded clip; the last one is kept, because requests about one clip are adjacent."""
        key = (request.media, request.start, request.end)
        if self._last is None or self._last[0] != key:
            self._last = None
            read = replace(self.reading, start=request.start, end=request.end)
            self._last = key, self.ep.encode(request.media, read)
            for note in set(self._last[1].source.notes) - self._notes:
                self._notes.add(note)
                logger.warning(note)
        return self._last[1]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported, OptionError: every request is one question."""
        raise OptionError("This task asks in rounds, and the model class asks one question.", ONE_QUESTION)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported, OptionError: only text is generated."""
        raise OptionError("This task needs likelihoods, and only text is generated.", "Use tasks that generate.")


def request_of(messages: Sequence[dict[str, Any]]) -> Request:
    """The request of a conversation; MediaError unless it is one question about one file.

    System messages are dropped: the model has its own.
    """
    parts = [part for message in messages if message["role"] == "user" for part in message["content"]]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    media = [part for part in parts if part["type"] in MEDIA]
    if any(message["role"] == "assistant" for message in messages):
        raise MediaError("The request is a conversation of several turns.", ONE_QUESTION)
    paths = {str(part["url"]) for part in media if isinstance(part.get("url"), str | Path)}
    if len(paths) != 1 or len(media) != sum(isinstance(part.get("url"), str | Path) for part in media):
        raise MediaError(
            f"The request has {len(media)} media, {len(paths)} of them files.", "Use tasks about one file."
        )
    return Request(Path(*paths), media[0].get("start_time"), media[0].get("end_time"), "\n".join(texts).strip())
