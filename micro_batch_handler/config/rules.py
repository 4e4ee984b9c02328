"""Rules for the keys of a yaml section: what a key must hold, in words and as a check.

A section is a frozen dataclass in which `key` declares each field; `Section` reads yaml into it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Generic, Literal, TypeGuard, TypeVar, Union, cast

from micro_batch_handler.config.stages import AUTO, STAGES, PerStage, Stage
from micro_batch_handler.errors import ConfigError

__all__ = [
    "ASCENDING",
    "COUNT",
    "COUNT_OR_AUTO",
    "FLAG",
    "HOSTED",
    "EachStage",
    "Rule",
    "Section",
    "is_seconds",
    "is_whole",
    "key",
    "near_miss",
]

MOST_SECONDS = 10_000_000
MOST_COUNT = 2**31 - 1
"""The limit of TorchServe's own keys. A larger number is a typing error, or no float."""

T = TypeVar("T")


@dataclass
class Rule(Generic[T]):
    """What a key must hold."""

    text: str
    """Completes "the key must be …", in messages and in the table of docs/configuration.md."""
    holds: Callable[[Any], bool]
    """Whether a value of any type is such a value."""

    def read(self, path: str, value: object, default: T) -> T:  # noqa: ARG002 - subclasses use it
        """The value as the section holds it.

        Args:
            path: of the key, for the message.
            value: as the yaml parser read it.
            default: what holds where a mapping leaves a part out.

        Raises:
            ConfigError: the value breaks the rule.
        """
        if not self.holds(value):
            raise ConfigError(f"{path} must be {self.text}, found {_shown(value)}")
        return cast(T, tuple(value) if isinstance(value, list) else value)


class EachStage(Rule[PerStage[T]]):
    """One value for all stages, or a mapping that may leave out stages."""

    def __init__(self, one: Rule[T]) -> None:
        super().__init__(f"{one.text}, or one for each stage", one.holds)
        self._one = one

    def read(self, path: str, value: object, default: PerStage[T]) -> PerStage[T]:
        """The value for each stage; `default` has those of stages that are left out."""
        if not isinstance(value, Mapping):
            return PerStage.of(self._one.read(path, value, default.inference))
        return _read_mapping(path, value, default, dict.fromkeys(STAGES, self._one))


class Section(Rule[T]):
    """A mapping of keys, read into a frozen dataclass that declares them; null gives its defaults.

    Args:
        kind: the dataclass.
    """

    def __init__(self, kind: type[T]) -> None:
        super().__init__("a mapping of keys", lambda value: isinstance(value, Mapping))
        declared = fields(kind)  # type: ignore[arg-type]  # T is a dataclass
        self.rules = {each.name: each.metadata["rule"] for each in declared if each.metadata}

    def read(self, path: str, value: object, default: T) -> T:
        """The dataclass; `default` has the values of keys that are left out."""
        if value is None:
            return default
        found = cast(Mapping[object, object], super().read(path, value, default))
        return _read_mapping(path, found, default, self.rules)


def key(default: T, rule: Rule[T], means: str = "") -> T:
    """Declare a key, as a field of a dataclass.

    Args:
        default: what holds without the key.
        rule: what the key must hold.
        means: what the key does, for the table of docs/configuration.md; the keys of a section
            say so themselves.
    """
    declared: T = field(default=default, metadata={"rule": rule, "means": means})
    return declared


def _read_mapping(
    path: str, section: Mapping[Any, object], default: T, rules: Mapping[Any, Rule[Any]]
) -> T:
    inner = {
        name: f"{outer}.{name}"
        for outer, rule in rules.items()
        if isinstance(rule, Section)
        for name in rule.rules
    }
    for name in section:
        if name not in rules:
            near = near_miss(str(name), [*rules, *inner], 0.6)
            hint = f" (did you mean {inner.get(near, near)}?)" if near else ""
            raise ConfigError(
                f"{path}.{name} is not a known key{hint}; known are {', '.join(rules)}"
            )
    read = {
        name: rules[name].read(f"{path}.{name}", value, getattr(default, name))
        for name, value in section.items()
    }
    return replace(default, **read)  # type: ignore[type-var]  # T is a dataclass


def near_miss(name: str, known: Iterable[str], cutoff: float) -> str | None:
    """The known key whose spelling is closest, if any is; case, `_` and `-` do not count.

    Args:
        name: as the user wrote it.
        known: the keys to choose from.
        cutoff: how alike the two must be, from 0 to 1.
    """

    def plain(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "")

    names = {plain(each): each for each in known}
    close = difflib.get_close_matches(plain(name), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # a number of more than 4300 digits
        return "a number that is too long to show"


def is_whole(value: object, least: int = 1, most: int = MOST_COUNT) -> bool:
    """Whether this is a whole number between the two."""
    # bool is an int to Python; `parallelism: yes` in yaml must not mean one lane.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_ascending(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(map(is_whole, value))
        and all(size < after for size, after in pairwise(value))
    )


def is_seconds(value: object) -> TypeGuard[float]:
    """Whether this is a number of seconds above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value <= MOST_SECONDS  # type: ignore[operator]  # mypy loses `number`


FLAG = Rule[bool]("true or false", lambda value: isinstance(value, bool))
COUNT = Rule[int]("a whole number >= 1", is_whole)
COUNT_OR_AUTO = Rule[Union[int, Literal["auto"]]](
    "a whole number >= 1 or 'auto'", lambda value: value == AUTO or is_whole(value)
)
ASCENDING = Rule[Union[tuple[int, ...], None]](
    "a list of whole numbers >= 1, each above the one before, or null",
    lambda value: value is None or _is_ascending(value),
)
HOSTED = Rule[tuple[Stage, ...]](
    "[inference] or [preprocess, inference]",
    lambda value: (
        isinstance(value, (list, tuple))
        and tuple(value) in (("inference",), ("preprocess", "inference"))
    ),
)
