"""An explanation as one PNG: some frames, the spectrogram and the budget over time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..display.budget import over_time
from ..display.pictures import spectrogram
from ..inputs.patches import STEP
from ..inputs.positions import AUDIO_TOKENS_PER_S
from .explanation import Choice, Explanation

WIDTH, MARGIN, GAP = 1600, 48, 10  # pixels
INNER = WIDTH - 2 * MARGIN
PLAIN = str.maketrans("–—−×", "---x")  # characters that the font lacks
MOST_FRAMES = 8
FRAME = (480, 420)  # the largest (width, height) of a frame in the strip
HEAD, BAND, TICKS, BARS = 30, 130, 12, 110  # heights of a heading, the spectrogram, its marks, the budget
INK, SOFT, GROUND, PAPER = "#15191f", "#525c69", "#f4f5f7", "#ffffff"
VIDEO, AUDIO, KEPT = "#0072b2", "#d55e00", "#56b4e9"  # Okabe and Ito's
DIMMED = 0.36  # brightness of dropped tokens


def render(explanation: Explanation) -> bytes:
    """The PNG file, for the requested ratio."""
    choice = explanation.choices[explanation.asked]
    parts = [part for part in _parts(explanation, choice) if part is not None]
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + 2 * MARGIN), PAPER)
    top = MARGIN
    for part in parts:
        whole.paste(part, (MARGIN, top))
        top += part.height
    file = io.BytesIO()
    whole.save(file, "PNG", optimize=True)
    return file.getvalue()


def _parts(explanation: Explanation, choice: Choice) -> Iterator[Image.Image | None]:
    tokens, clip = choice.answer.report.tokens, explanation.clip
    counts = (("video", tokens.video), ("image", tokens.image), ("audio", tokens.audio))
    budget = ", ".join(f"{name} {n.after} of {n.before} tokens" for name, n in counts if n.before)
    about = (Path(clip.source.path).name, Path(explanation.model).name, _named(choice), budget)
    yield _text(explanation.question, 36, INK)
    yield _text(f"Answer: {choice.answer.text or '(nothing)'}", 36, VIDEO)
    yield _text(" · ".join(about), 20, SOFT, below=24)
    yield _strip(explanation, choice)
    yield _sound(explanation, choice)
    yield _evidence(explanation, choice)
    yield _budget(explanation, choice)
    yield _text(explanation.belief, 18, SOFT)


def _named(choice: Choice) -> str:
    setting = choice.setting
    return "all tokens" if setting.reducer == "full" else f"{setting.reducer}, keep {setting.keep:g}"


def _font(size: float) -> Any:
    return ImageFont.load_default(size)


def _text(text: str, size: int, colour: str, below: int = 8) -> Image.Image:
    """Text wrapped to the inner width."""
    font, lines = _font(size), [""]
    for word in text.translate(PLAIN).split():
        while font.getlength(word) > INNER:  # a word longer than a line
            cut = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= INNER)
            lines, word = [*lines, word[:cut]], word[cut:]
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if font.getlength(joined) <= INNER else [*lines, word]
    height = round(1.35 * size)
    made = Image.new("RGB", (INNER, height * len(lines) + below), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(made).text((0, i * height), line, colour, font)
    return made


def _strip(explanation: Explanation, choice: Choice) -> Image.Image | None:
    """Some temporal steps of the video, evenly spaced, with their kept cells."""
    clip, steps = explanation.clip, explanation.span.times
    if not steps:
        return None
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(MOST_FRAMES, len(steps))).round().astype(int)).tolist()
    height, width = clip.frames.shape[1:3]
    most = (INNER - GAP * (len(chosen) - 1)) / len(chosen)
    scale = min(most / width, FRAME[0] / width, FRAME[1] / height)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    made = Image.new("RGB", (INNER, size[1] + 44), PAPER)
    cells: dict[float, set[tuple[int, int]]] = {}
    for i in choice.kept:
        token = explanation.tokens[i]
        if token.cell is not None:
            cells.setdefault(round(token.time, 3), set()).add(token.cell)
    for n, step in enumerate(chosen):
        kept = cells.get(round(steps[step], 3), set())
        left = n * (size[0] + GAP)
        frame = Image.fromarray(clip.frames[STEP * step]).resize(size)
        made.paste(framed(frame, explanation.span.rows, explanation.span.columns, kept), (left, 0))
        label = f"{len(kept)} kept" if explanation.span.image else f"{steps[step]:.1f} s: {len(kept)} kept"
        ImageDraw.Draw(made).text((left, size[1] + 6), label, SOFT, _font(18))
    return made


def framed(frame: Image.Image, rows: int, columns: int, kept: set[tuple[int, int]]) -> Image.Image:
    """A frame dimmed except in the kept cells (row, column) of its grid, which are outlined."""
    made = frame.point(lambda level: level * DIMMED)
    high, wide = frame.height / rows, frame.width / columns
    boxes = []
    for row, column in kept:
        left, right = round(column * wide), round((column + 1) * wide)
        boxes.append((left, round(row * high), right, round((row + 1) * high)))
        made.paste(frame.crop(boxes[-1]), boxes[-1][:2])
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(made).rectangle((left, top, right - 1, bottom - 1), outline=KEPT, width=2)
    return made


def _sound(explanation: Explanation, choice: Choice) -> Image.Image | None:
    """The spectrogram, dimmed except at the kept tokens, which are marked below."""
    found = spectrogram(explanation.clip)
    if found is None:
        return None
    pixels, covered = found
    width = round(INNER * covered / explanation.clip.duration)
    kept = np.zeros(explanation.span.audio_tokens, bool)
    times = [explanation.tokens[i].time for i in choice.kept if explanation.tokens[i].cell is None]
    kept[[round(time * AUDIO_TOKENS_PER_S) for time in times]] = True
    column = np.arange(pixels.shape[1]) * len(kept) // pixels.shape[1]
    lit = Image.fromarray((pixels * np.where(kept[column], 1.0, DIMMED)).astype(np.uint8))
    made = Image.new("RGB", (INNER, HEAD + BAND + TICKS + 14), PAPER)
    draw = ImageDraw.Draw(made)
    draw.text((0, 0), "Audio; kept tokens are marked below the spectrogram", SOFT, _font(18))
    made.paste(lit.resize((width, BAND), Image.Resampling.BOX), (0, HEAD))
    draw.rectangle((0, HEAD + BAND, INNER - 1, HEAD + BAND + TICKS - 1), GROUND)
    for token in np.flatnonzero(kept).tolist():
        span = [int(place * width / len(kept)) for place in (token, token + 1)]
        draw.rectangle((span[0], HEAD + BAND + 1, max(*span) - (span[1] > span[0]), HEAD + BAND + TICKS - 2), AUDIO)
    return made


def _evidence(explanation: Explanation, choice: Choice) -> Image.Image | None:
    """The evidence times on the clip's length; darker for a larger share."""
    duration, evidence = explanation.clip.duration, choice.answer.evidence
    if duration <= 0:
        return None
    made = _text(f"Evidence: {evidence}", 18, SOFT, below=TICKS + 14)
    draw, top = ImageDraw.Draw(made), made.height - TICKS - 14
    draw.rectangle((0, top, INNER - 1, top + TICKS), GROUND)
    for moment in evidence.moments[::-1]:
        left, right = (round(INNER * second / duration) for second in (moment.start, moment.end))
        ink = round(0xFF * 0.65 * (1 - moment.share))
        draw.rectangle((left, top, min(INNER, max(left + 1, right)) - 1, top + TICKS), (ink, ink, ink))
    return made


def _budget(explanation: Explanation, choice: Choice) -> Image.Image | None:
    """Kept tokens over time as stacked bars, audio above video."""
    duration = explanation.clip.duration
    budget = over_time(duration, explanation.span, explanation.kept(choice))
    if not budget.video:
        return None
    made = Image.new("RGB", (INNER, HEAD + BARS + 52), PAPER)
    draw, hatched = ImageDraw.Draw(made), _hatch(INNER, BARS)
    _legend(made, hatched, f"(at most {budget.most} in {budget.part:.2g} s)")
    draw.rectangle((0, HEAD, INNER - 1, HEAD + BARS), GROUND)
    for i, (video, audio) in enumerate(zip(budget.video, budget.audio, strict=True)):
        left, right = (min(INNER, round(INNER * n * budget.part / duration)) for n in (i, i + 1))
        right = max(left + 1, right - 2)  # a gap between parts
        low, high = (BARS - round(BARS * n / max(1, budget.most)) for n in (video, video + audio))
        if video:
            draw.rectangle((left, HEAD + low, right - 1, HEAD + BARS), VIDEO)
        made.paste(hatched.crop((left, high, right, low)), (left, HEAD + high))
    draw.line((0, HEAD + BARS, INNER, HEAD + BARS), SOFT)
    for n in range(5):
        label = f"{n * duration / 4:.1f} s"
        width = draw.textlength(label, _font(18))
        place = min(max(0.0, INNER * n / 4 - width / 2), INNER - width)
        draw.text((place, HEAD + BARS + 6), label, SOFT, _font(18))
    return made


def _legend(made: Image.Image, hatched: Image.Image, most: str) -> None:
    draw, left = ImageDraw.Draw(made), 0
    keys = {"video": Image.new("RGB", (16, 16), VIDEO), "audio": hatched.crop((0, 0, 16, 16))}
    for text in ("Kept tokens over time:", "video", "audio", most):
        if text in keys:
            made.paste(keys[text], (left, 4))
            left += 24
        draw.text((left, 0), text, SOFT, _font(18))
        left += round(draw.textlength(text, _font(18))) + 16


def _hatch(width: int, height: int) -> Image.Image:
    """Stripes: audio differs from video by more than its colour."""
    made = Image.new("RGB", (width, height), AUDIO)
    for x in range(-height, width, 9):
        ImageDraw.Draw(made).line((x, height, x + height, 0), PAPER, 2)
    return made
