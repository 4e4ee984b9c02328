"""Any model-config.yaml: a sound config, or a ConfigError."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micro_batch_handler.config import STAGES, MicroBatchingConfig
from micro_batch_handler.errors import ConfigError

YAML_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.integers(-3, 40),
    st.floats(),
    st.text(),
    st.binary(),
    st.dates(),
    st.just(dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)),
    st.sampled_from(["auto", "isolate", "fail_batch", "AUTO", "pp", "Tp", 30, 0.5]),
)
YAML_KEYS = st.one_of(
    st.sampled_from(
        [
            *("micro_batch_size", "parallelism", "on_error", "stage_timeout", "deadline_header"),
            *("preprocess", "inference", "postprocess", "micro_batching", "responseTimeout"),
            *("asyncCommunication", "continuousBatching", "parallelType", "handler"),
            *("allowed_sizes", "intra_op_threads"),
        ]
    ),
    YAML_SCALARS.filter(lambda key: key == key),  # noqa: PLR0124  (not NaN)
)
YAML = st.recursive(
    YAML_SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(YAML_KEYS, inner, max_size=4),
    max_leaves=6,
)


def check_config(model_yaml):
    """The settings are refused, or the config is sound."""
    try:
        config = MicroBatchingConfig.from_model_yaml(model_yaml)
    except ConfigError:
        return
    sizes = [config.micro_batch_size[stage] for stage in STAGES]
    assert all(size == "auto" or (type(size) is int and size >= 1) for size in sizes)
    lanes = [config.parallelism[stage] for stage in STAGES]
    assert all(count == "auto" or count >= 1 for count in lanes)
    assert config.allowed_sizes is None or config.allowed_sizes[0] >= 1
    assert config.stage_timeout is None or config.stage_timeout > 0
    assert config.on_error in {"isolate", "fail_batch"}


@given(
    YAML
    | st.fixed_dictionaries({"micro_batching": st.dictionaries(YAML_KEYS, YAML, max_size=3)})
    | st.fixed_dictionaries({"responseTimeout": YAML_SCALARS, "micro_batching": YAML})
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_settings_are_legal_or_refused(model_yaml):
    """Any model-config.yaml gives a config or a ConfigError."""
    check_config(model_yaml)


@pytest.mark.parametrize(
    "model_yaml",
    [
        {"micro_batching": {"stage_timeout": 16**5000}},
        {"micro_batching": {"micro_batch_size": -(16**5000)}},
        {"responseTimeout": 10**400},
        {"responseTimeout": math.inf, "micro_batching": {"stage_timeout": 10**400}},
    ],
    ids=["stage_timeout", "micro_batch_size", "responseTimeout", "endless responseTimeout"],
)
def test_huge_numbers_in_settings_are_refused(model_yaml):
    """A number that no float holds and no text shows is refused like any other."""
    check_config(model_yaml)
