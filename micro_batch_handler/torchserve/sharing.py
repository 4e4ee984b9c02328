"""Whether a handler shares its model (`share_model`), and what it has of the process with it.

What that needs is imported only then: it takes time, and Unix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts.context import Context

from micro_batch_handler.config import MicroBatchingConfig

if TYPE_CHECKING:
    from micro_batch_handler.torchserve.member import Member

__all__ = ["MEMBER", "in_host", "leave_host", "member_of"]

MEMBER = "_micro_batch_member"
"""The attribute in which a handler has its `Member`."""

_host = False


def in_host(*, now: bool = False) -> bool:
    """Whether this process is the model host; `now` makes it one."""
    global _host  # noqa: PLW0603  (a process is one or the other)
    _host = _host or now
    return _host


def member_of(handler: Any, context: Context) -> Member | None:
    """What a worker has of its host, which is started now if need be; None without `share_model`.

    Raises:
        ConfigError: a setting cannot work.
    """
    config = MicroBatchingConfig.from_model_yaml(getattr(context, "model_yaml_config", None))
    if not config.share_model:
        return None
    from micro_batch_handler.torchserve.member import Member

    member: Member | None = vars(handler).get(MEMBER)
    if member is None:
        member = vars(handler)[MEMBER] = Member(handler, context, config)
    return member


def leave_host(handler: Any) -> None:
    """Close what a worker has of its host, if it has anything."""
    member: Member | None = vars(handler).pop(MEMBER, None)
    if member is not None:
        member.close()
