"""How many workers TorchServe starts for a model, and what other numbers of them gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from micro_batch_handler.tools.tuning.goals import Figures, Goal

__all__ = ["about_workers", "own_workers", "started_workers"]


def own_workers(model_yaml: Mapping[str, object]) -> int | None:
    """The workers that model-config.yaml asks for; None if TorchServe goes by its own default."""
    least, most = (model_yaml.get(key, 0) for key in ("minWorkers", "maxWorkers"))
    if isinstance(least, int) and isinstance(most, int) and 0 < least <= most:
        return least
    return None


def started_workers(model_yaml: Mapping[str, object], cores: int, devices: int) -> int:
    """The workers that TorchServe starts: one for each GPU, or core, if the file does not say.

    As `ConfigManager.getDefaultWorkers` of TorchServe 0.12 has it, without
    `default_workers_per_model` and `number_of_gpu` in config.properties.
    """
    return own_workers(model_yaml) or devices or cores


def about_workers(tried: Iterable[Figures], goal: Goal) -> str:
    """The best that each number of workers gave within a goal; empty if one number was tried."""
    best: dict[int, float] = {}
    for each in filter(goal.admits, tried):
        workers = each.setting.workers
        best[workers] = max(each.rate, best.get(workers, 0.0))
    if len(best) < 2:  # noqa: PLR2004  (one number has nothing to be compared with)
        return ""
    told = ", ".join(f"{count}: {best[count]:,.0f} requests/s" for count in sorted(best))
    return f"The best of each number of workers that was run: {told}."
