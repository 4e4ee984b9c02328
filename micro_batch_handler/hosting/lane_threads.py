"""Threads for the host's lanes that the main thread does not run."""

from __future__ import annotations

import threading

from micro_batch_handler.hosting.host_lane import HostLane

__all__ = ["run_beside"]


def run_beside(lane: HostLane) -> None:
    """Run a lane in a thread of its own; returns once that is set up.

    Raises:
        BaseException: what the setup raises.
    """
    ready = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            lane.set_up()
        except BaseException as error:
            errors.append(error)
            return
        finally:
            ready.set()
        lane.run()

    threading.Thread(target=run, name=f"mbh-{lane.stage}-0", daemon=True).start()
    ready.wait()
    if errors:
        raise errors[0]
