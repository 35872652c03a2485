"""The option for the share of video tokens that the vision encoder keeps inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast, get_args

from ..errors import OptionError
from ..reducer_names import AUTO

OFF = "off"
TIMES = "x"  # after a number: that many times the share of tokens that questions keep
Pick = Literal["maxmin", "states", "places"]
PICKS: tuple[Pick, ...] = get_args(Pick)
HINT = (
    "Give a share in (0, 1] such as 0.3, a multiple of --keep such as 3x, shares after numbers of layers such as "
    "0.3@8,0.15@16, off or auto; and for a pick other than maxmin :states or :places after it."
)


@dataclass(frozen=True)
class EncoderKeep:
    """The share of the cells (2 x 2 patches, one token each) that the vision encoder keeps inside.

    After `layers[i]` of its layers, `shares[i]` of the new cells of each temporal step are left. Without `layers`, the
    encoder has its own (`backbones.pruning.default_layers`). With `times`, shares are multiples of the share of tokens
    that questions keep.
    `pick`: cells that lie farthest apart by `states` (the mean hidden state of their patches), by `places` in the
    frame, or by both (`maxmin`).
    """

    shares: tuple[float, ...]
    layers: tuple[int, ...] = ()
    times: bool = False
    pick: Pick = "maxmin"

    def __post_init__(self) -> None:
        falling = all(more >= less for more, less in pairwise(self.shares))
        rising = all(one < other for one, other in pairwise((0, *self.layers)))
        paired = len(self.layers) in (0, len(self.shares))
        most = math.inf if self.times else 1
        valid = paired and falling and rising and self.pick in PICKS
        if not (valid and self.shares and all(0 < share <= most for share in self.shares)):
            raise OptionError(f"{self} is no encoder keep.", HINT)

    @classmethod
    def read(cls, text: str) -> EncoderKeep:
        """Shares from `0.3`, `3x`, `0.3@8,0.15@16` or `0.3:states`; OptionError otherwise."""
        numbers, _, pick = text.partition(":")
        parts = [part.partition("@") for part in numbers.split(",")]
        times = all(share.endswith(TIMES) for share, _, _ in parts)
        try:
            shares = [float(share.removesuffix(TIMES) if times else share) for share, _, _ in parts]
            layers = [int(n) for _, at, n in parts if at]
        except ValueError:
            raise OptionError(f"{text!r} is no encoder keep.", HINT) from None
        return cls(tuple(shares), tuple(layers), times, cast(Pick, pick or "maxmin"))

    def at(self, keep: float | None) -> EncoderKeep | None:
        """The shares of cells where questions keep at most this share of the tokens; None where all cells are kept.

        `keep` None: an unknown share, for which multiples keep all cells.
        """
        if not self.times:
            return self
        if keep is None:
            return None
        shares = tuple(min(1.0, share * keep) for share in self.shares)
        return None if min(shares) == 1 else EncoderKeep(shares, self.layers, pick=self.pick)

    def __str__(self) -> str:
        """As `read` reads it."""
        shares = [f"{share:g}{TIMES if self.times else ''}" for share in self.shares]
        parts = [f"{share}@{n}" for share, n in zip(shares, self.layers, strict=False)] if self.layers else shares
        return ",".join(parts) + ("" if self.pick == "maxmin" else f":{self.pick}")


def read_encoder_keep(text: str) -> EncoderKeep | Literal["auto"] | None:
    """Shares that the vision encoder keeps, from `auto`, `off` or as of `EncoderKeep.read`; OptionError otherwise."""
    text = text.strip()
    return AUTO if text == AUTO else None if text == OFF else EncoderKeep.read(text)
