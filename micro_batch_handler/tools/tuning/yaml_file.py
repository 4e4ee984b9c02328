"""model-config.yaml with other values: comments, order and all other keys stay."""

from __future__ import annotations

import io
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.tools.packing.model_config import check_model_config, read_model_config
from micro_batch_handler.tools.packing.output import written_beside

__all__ = ["as_yaml", "update"]

WIDTH = 4096
"""So wide that no line of the user's is broken."""


def as_yaml(keys: Mapping[str, Any]) -> str:
    """The keys as lines of YAML; each mapping of numbers is one line."""
    return yaml.safe_dump(dict(keys), sort_keys=False, default_flow_style=None, width=WIDTH)


def update(path: Path, keys: Mapping[str, Any]) -> bool:
    """Give the keys of the file these values, mappings key by key; False if it has them already.

    The file is replaced as a whole, or not at all.

    Raises:
        ConfigError: it is no model-config.yaml, or cannot be changed without changing more.
    """
    before = read_model_config(path)
    wanted = _merged(before, keys)
    if wanted == before:
        return False
    text = _edited(path.read_text(encoding="utf-8"), keys)
    if _parsed(text) != wanted:
        raise ConfigError(
            f"{path} cannot be changed without changing other values in it (anchors, tags, or keys "
            f"that come twice). Put this into it by hand:\n{as_yaml(keys)}"
        )
    check_model_config(path, read_model_config(path, text.encode()))
    with written_beside(path) as staged:
        staged.write_text(text, encoding="utf-8")
        staged.chmod(path.stat().st_mode)
        staged.replace(path)
    return True


def _edited(text: str, keys: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML  # of an extra, which only those who write need
    from ruamel.yaml.util import load_yaml_guess_indent

    parser = YAML()
    parser.preserve_quotes = True
    parser.width = WIDTH
    tree, sequence, dash = load_yaml_guess_indent(text, yaml=parser)
    parser.indent(mapping=_indent(text), sequence=sequence or 2, offset=dash or 0)
    _set(tree, keys)
    out = io.StringIO()
    parser.dump(tree, out)
    return out.getvalue()


def _set(tree: MutableMapping[str, Any], keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        there = tree.get(key)
        if isinstance(value, Mapping) and isinstance(there, MutableMapping):
            _set(there, value)
        elif there != value or isinstance(there, bool):
            tree[key] = _in_one_line(value) if isinstance(value, Mapping) else value


def _in_one_line(value: Mapping[str, Any]) -> Any:
    """A mapping that is new in the file; a mapping of numbers is written in one line."""
    from ruamel.yaml.comments import CommentedMap

    made = CommentedMap()
    for key, each in value.items():
        made[key] = _in_one_line(each) if isinstance(each, Mapping) else each
    if not any(isinstance(each, Mapping) for each in value.values()):
        made.fa.set_flow_style()
    return made


def _merged(before: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for key, value in keys.items():
        there = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(there, Mapping)
        merged[key] = _merged(there, value) if both else value  # type: ignore[arg-type]
    return merged


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _indent(text: str) -> int:
    """By how many spaces the file's first nested key is indented."""
    for line in text.splitlines():
        bare = line.lstrip(" ")
        if bare and bare[0] not in "#-" and bare != line:
            return len(line) - len(bare)
    return 2
