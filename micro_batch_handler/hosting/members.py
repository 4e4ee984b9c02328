"""The members of a host: the memory of each, as long as one of its connections is open."""

from __future__ import annotations

import threading

from micro_batch_handler.hosting.member_memory import MemberMemory
from micro_batch_handler.hosting.messages import Hello
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Members"]


class Members:
    """Who is connected; every method may be called from any thread.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._members: dict[str, MemberMemory] = {}
        self._alone_since_s: float | None = clock.now_s()
        self._beats = 0

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, hello: Hello, fd: int) -> MemberMemory:
        """The memory of a member that has opened a connection; takes over the descriptor.

        Raises:
            ConfigError: the system refuses the memory.
        """
        with self._lock:
            member = self._members.get(hello.member)
            if member is None:
                member = MemberMemory(hello.member, fd, hello.size_bytes)
                self._members[hello.member] = member
            else:
                member.close_another(fd)
            member.connections += 1
            self._alone_since_s = None
            return member

    def leave(self, member: MemberMemory) -> None:
        """A connection of the member has been closed."""
        with self._lock:
            member.connections -= 1
            gone = not member.connections
            if gone:
                del self._members[member.name]
            if not self._members:
                self._alone_since_s = self._clock.now_s()
        if gone:
            member.close()  # which may wait for the device, and nobody else has to

    def count_from_now(self) -> None:
        """The time without a member begins now, if there is none."""
        with self._lock:
            if not self._members:
                self._alone_since_s = self._clock.now_s()

    def have_been_gone(self, seconds: float) -> bool:
        """Whether there has been no member for so long."""
        since_s = self._alone_since_s
        return since_s is not None and self._clock.now_s() >= since_s + seconds

    def beat(self) -> None:
        """Let all members see that this process moves."""
        self._beats += 1
        with self._lock:
            for member in self._members.values():
                member.beat(self._beats)
