"""Recipes from TOML files; unknown keys and values of a wrong type fail loudly."""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import DataError
from .recipe import Recipe, Stage, listed

T = TypeVar("T")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; DataError names a file that is not one, or a key that is not known."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is no recipe: {error}.", "Start from recipes/tiny.toml.") from error
    recipe = _table(Recipe, values, str(path), path.parent)
    if not recipe.stage:
        raise DataError(f"{path} has no stage.", "Add a [[stage]]; recipes/tiny.toml has several.")
    return recipe


def _table(kind: type[T], values: dict[str, Any], where: str, folder: Path) -> T:
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values.keys() - known.keys():
        raise DataError(f"{where} has an unknown key {key!r}.", f"Known keys: {', '.join(sorted(known))}.")
    if kind is Stage and "keep" in values:
        values = {**values, "keep": _phases(values["keep"])}
    filled = {key: _value(hints[key], value, key, where, folder) for key, value in values.items()}
    try:
        return kind(**filled)
    except TypeError:
        lacks = [key for key in ("name", "task", "until", "ratios") if key in known and key not in filled]
        raise DataError(
            f"{where} lacks {listed(lacks)}.", "A stage needs name and task, and steps or epochs."
        ) from None


def _value(hint: Any, value: Any, key: str, where: str, folder: Path) -> Any:
    """`value` as the field's type has it, or a DataError."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        (only,) = (one for one in inner if one is not type(None))
        return _value(only, value, key, where, folder)
    if is_dataclass(hint) and isinstance(value, dict):
        return _table(hint, value, f"[{key}] in {where}", folder)  # type: ignore[arg-type]
    if kind is tuple and isinstance(value, list):
        return tuple(_value(inner[0], one, key, where, folder) for one in value)
    if kind is Literal and value in inner:
        return value
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise DataError(f"{where} has {key} = {value!r}.", f"It must be {_wanted(hint)}.")


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {listed(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a list, each {_wanted(get_args(hint)[0])}"
    return "a table" if is_dataclass(hint) else f"of type {'str' if hint is Path else hint.__name__}"


def _phases(keep: Any) -> Any:
    """Tables from [0.5, 0.2], or from pairs [until, ratios]."""
    if not isinstance(keep, list) or not all(isinstance(one, list) and len(one) == 2 for one in keep):
        return [{"until": 1.0, "ratios": keep}]
    return [{"until": until, "ratios": ratios} for until, ratios in keep]
