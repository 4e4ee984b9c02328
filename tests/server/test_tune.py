"""On a real TorchServe: what the tuner writes into model-config.yaml is what is served."""

from __future__ import annotations

import pytest
import yaml

from harness.wait import until
from micro_batch_handler.config import PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.setting import Setting

pytestmark = pytest.mark.server


def test_the_frontend_takes_what_is_written(server, tmp_path):
    """Batch size, delay and workers are the frontend's, sizes and lanes the handler's."""
    pytest.importorskip("ruamel.yaml")
    from micro_batch_handler.tools.tuning.yaml_file import update

    file = tmp_path / "model-config.yaml"
    file.write_text("batchSize: 1  # one\nresponseTimeout: 60\n")
    threads = PerStage("auto", 2, "auto")
    update(file, Setting(6, Plan(1, 3, 6), PerStage(2, 1, 1), threads, workers=2).keys(40))
    with server.model("plain", yaml.safe_load(file.read_text())) as model, server.rest() as client:
        (told,) = client.describe(model.name).json()

        assert (6, 40, 2, 2) == tuple(
            told[key] for key in ("batchSize", "maxBatchDelay", "minWorkers", "maxWorkers")
        )
        # Registering waits for one worker; the other may still load.
        until(lambda: len(model.worker_pids()) == 2, "both workers")
        assert len(model.worker_pids()) == 2
        server.wait_for_log("lanes PerStage(preprocess=2, inference=1, postprocess=1)")
        server.wait_for_log("PerStage(preprocess=1, inference=2, postprocess=1), whole batches 2")
