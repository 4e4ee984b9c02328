"""Constants that several parts of the soak use."""

from __future__ import annotations

BATCH_SIZE = 32
STAGE_TIMEOUT_S = 1.0
PATIENCE_S = 20.0
SAMPLE_EVERY = 100
REPLAN_EVERY = 500
SLOPE_LIMIT_KB = 200.0
"""Growth per 1,000 batches that counts as a leak: 0.2 kB a batch, less than one lost answer."""

ENOUGH_BATCHES = 5_000
"""With fewer batches the slope shows the warm-up only, and no limit applies."""

OK = 200
BAD_REQUEST = 400
SERVER_ERROR = 500
TIMED_OUT = 504
OUT_OF_RESOURCES = 507
SECRET = "secret"  # noqa: S105  (stands in the texts of errors, which no client may see)
