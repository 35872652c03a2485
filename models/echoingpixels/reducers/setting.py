"""A reducer with a keep ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..options import check_choice


@dataclass(frozen=True)
class Setting:
    """The reducer and keep ratio of one run."""

    reducer: str
    keep: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"reducer": self.reducer, "keep": self.keep}


def settings(reducers: Iterable[str], keeps: Iterable[float]) -> list[Setting]:
    """The runs to make: one `full` if 1 is among the ratios, and each reducer at each ratio below 1.

    At 1 every reducer but cs2 is `full`, and cs2 does not run at 1, where it saves nothing.
    """
    ratios, names = list(dict.fromkeys(keeps)), list(dict.fromkeys(reducers))
    for name in names:
        for keep in ratios:
            check_choice("cs2" if name == "full" else name, keep)  # full ignores the ratio
    whole = [Setting("full", 1.0)] if 1 in ratios or "full" in names else []
    return whole + [Setting(name, keep) for name in names if name != "full" for keep in ratios if keep != 1]
