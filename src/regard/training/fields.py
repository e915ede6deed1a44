"""The fields of recipes by dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regard.training.recipe import Recipe

# What says where and how a run takes place, not what comes out, and may be another when it is resumed.
WHERE = (
    *("source", "device", "threads", "trackers", "save_minutes", "wait_minutes"),
    *("data.folder", "data.download", "data.workers"),
)


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of fields by dotted names; options stay together."""
    found = {}
    for name, value in fields.items():
        if isinstance(value, dict) and not name.endswith("options"):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def with_fields(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with fields changed, by dotted names such as `data.folder` and `device`."""
    for name, value in changes.items():
        group, _, own = name.rpartition(".")
        recipe = replace(recipe, **{group or own: replace(getattr(recipe, group), **{own: value}) if group else value})
    return recipe
