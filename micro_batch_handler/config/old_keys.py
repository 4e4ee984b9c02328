"""Keys in an old spelling, which are still understood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from micro_batch_handler.config.limits import SECTION
from micro_batch_handler.config.rules import Section
from micro_batch_handler.errors import ConfigError

__all__ = ["OLD_KEYS", "new_spelling", "read_old_keys"]

OLD_KEYS: Mapping[str, str] = {
    "cuda_streams": "device.streams",
    "copy_in": "device.copy_in",
    "copy_out": "device.copy_out",
    "pinned_bytes": "device.pinned_bytes",
    "trace_file": "trace.file",
    "trace_batches": "trace.batches",
}
"""An old key and its path in the section now."""

T = TypeVar("T")


def read_old_keys(section: Mapping[Any, object], default: T) -> tuple[T, tuple[str, ...]]:
    """The settings with the values that the section has for old keys, and these keys.

    Args:
        section: as the yaml parser read it; its other keys are left alone.
        default: settings that have the mappings as fields.

    Raises:
        ConfigError: a value breaks the key's rule, or the section has it in both spellings.
    """
    found = tuple(name for name in OLD_KEYS if name in section)
    for old in found:
        mapping, name = OLD_KEYS[old].split(".")
        path, given = f"{SECTION}.{old}", section.get(mapping)
        if isinstance(given, Mapping) and name in given:
            raise ConfigError(
                f"{path} is the old spelling of {SECTION}.{mapping}.{name}, and both are set; "
                f"remove {old}"
            )
        settings = getattr(default, mapping)
        rule = Section(type(settings)).rules[name]
        value = rule.read(path, section[old], getattr(settings, name))
        changed = {mapping: replace(settings, **{name: value})}
        default = replace(default, **changed)  # type: ignore[type-var]  # T is a dataclass
    return default, found


def new_spelling(old: Iterable[str]) -> str:
    """What to write instead of these old keys."""
    now = ", ".join(f"{OLD_KEYS[key]} for {key}" for key in old)
    return f"{SECTION} has keys in their old spelling, which still works: write {now}"
