"""model-config.yaml: what TorchServe would only log, or die of, is refused with its reason."""

from __future__ import annotations

import pytest

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.tools.packing.model_config import (
    FRONTEND_KEYS,
    TORCHRUN_KEYS,
    check_model_config,
    read_model_config,
)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a text as the content of model-config.yaml."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model-config.yaml"

    def check(text, **flags):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        named = path.relative_to(tmp_path)
        return check_model_config(named, read_model_config(named), **flags)

    return check


def test_a_full_file_is_accepted(check):
    """Each key of the frontend's with a value it takes, and the handler's own sections, pass."""
    notes = check("""
        minWorkers: 1
        maxWorkers: 2
        batchSize: 32
        maxBatchDelay: 0
        responseTimeout: 120
        startupTimeout: 120
        deviceType: GPU
        deviceIds: [0, 1]
        parallelType: custom
        parallelLevel: 1
        torchrun: {nnodes: 1, nproc-per-node: 2, node-rank: 0, rdzv-backend: c10d,
                   rdzv-endpoint: "localhost:1", rdzv-conf: "a=b", monitor-interval: 5,
                   OMP_NUMBER_THREADS: 1}
        maxRetryTimeoutInSec: 300
        clientTimeoutInMills: 0
        jobQueueSize: 100
        useJobTicket: true
        useVenv: false
        sequenceBatching: false
        sequenceMaxIdleMSec: 0
        sequenceTimeoutMSec: 0
        maxSequenceJobQueueSize: 1
        maxNumSequence: 1
        continuousBatching: false
        asyncCommunication: false
        handler: {profile: false}
        pt2: {compile: {enable: false}}
        micro_batching: {micro_batch_size: 8}
        anything: [else]
        """)

    assert notes == []


@pytest.mark.parametrize("key", FRONTEND_KEYS)
@pytest.mark.parametrize("value", ["", "1.5", "'1'", "[text]", "[true]"])
def test_wrong_types_are_refused(check, key, value):
    """No key takes nothing, a fraction, a number in quotes, or a list of the wrong things."""
    with pytest.raises(ConfigError, match=f"^model-config.yaml: {key} must be "):
        check(f"{key}: {value}")


@pytest.mark.parametrize("key", TORCHRUN_KEYS)
def test_wrong_types_under_torchrun_are_refused(check, key):
    """The keys of the torchrun section are checked in the same way."""
    with pytest.raises(ConfigError, match=f"^model-config.yaml: torchrun: {key} must be "):
        check(f"torchrun: {{{key}: 1.5}}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchSize: '8'", "batchSize must be a whole number >= 1, found '8'"),
        ("batchSize: 0", "batchSize must be a whole number >= 1, found 0"),
        ("batchSize: true", "batchSize must be a whole number >= 1, found True"),
        ("batchSize:", "batchSize must be a whole number >= 1, found nothing"),
        ("jobQueueSize: 2147483648", "jobQueueSize must be a whole number >= 0"),
        ("deviceType: tpu", "deviceType must be one of cpu, gpu, found 'tpu'"),
        ("deviceIds: 0", "deviceIds must be a list of whole numbers >= 0, found 0"),
        ("useVenv: 'yes'", "useVenv must be true or false, found 'yes'"),
        ("torchrun: 2", "torchrun must be a mapping of keys, found 2"),
        ("", "must hold a mapping of keys, found nothing"),
        ("- batchSize", "must hold a mapping of keys, found ['batchSize']"),
        ("on: 1", "the key True must be text"),
        ("batchSize: [8", "model-config.yaml is not yaml: while parsing"),
        ("!!python/object:os.system {}", "is not yaml: could not determine a constructor"),
        (b"\xff\xfe\xff", "is not yaml: "),
        ("micro_batching: 8", "micro_batching must be a mapping of keys, found 8"),
        ("micro_batching: {size: 8}", "micro_batching.size is not a known key"),
        ("asyncCommunication: true", "asyncCommunication: True cannot work with micro-batching: "),
        ("continuousBatching: true", "continuousBatching: True cannot work with micro-batching: "),
    ],
)
def test_refusals_say_what_and_why(check, text, said):
    """The message, on one line, names the file, the key, the rule and what was found."""
    with pytest.raises(ConfigError) as refusal:
        check(text)

    message = str(refusal.value)
    assert message.startswith("model-config.yaml")
    assert said in message
    assert "\n" not in message


def test_other_handlers_may_use_what_ours_cannot(check):
    """Keys that only micro-batching forbids pass for a built-in handler."""
    assert check("asyncCommunication: true", micro_batched=False) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch_size: 8", "'batch_size' is not a key of TorchServe's; did you mean 'batchSize'?"),
        ("batchsize: 8", "did you mean 'batchSize'?"),
        ("max-workers: 8", "did you mean 'maxWorkers'?"),
        ("responseTimout: 8", "did you mean 'responseTimeout'?"),
        ("microbatching: {}", "did you mean 'micro_batching'?"),
        ("micro_batch: {}", "did you mean 'micro_batching'?"),
        ("micro-batching: {}", "did you mean 'micro_batching'?"),
        ("microBatches: {}", "did you mean 'micro_batching'?"),
        ("micro_batch_size: 4", "not read here; micro_batch_size belongs under micro_batching:"),
        ("parallelism: 4", "'parallelism' is not read here; parallelism belongs under"),
        ("microBatchSize: 4", "micro_batch_size belongs under micro_batching:"),
        (
            "{batchSize: 8, micro_batching: {micro_batch_size: {inference: 16}}}",
            "micro_batch_size is above batchSize 8 (inference 16), so these stages get whole",
        ),
        ("{batchSize: 8, micro_batching: {micro_batch_size: 8}}", "holds a whole batch of 8"),
        ("batchSize: 101", "batchSize 101 is above the number of requests that may wait (100, "),
        ("{batchSize: 8, jobQueueSize: 7}", "that may wait (jobQueueSize 7), so batches hardly"),
        ("torchrun: {max-restarts: 3}", "torchrun.max-restarts is ignored by TorchServe"),
        ("minWorkers: 2", "minWorkers 2 and maxWorkers 0 are ignored by TorchServe"),
        ("{minWorkers: 2, maxWorkers: 1}", "give both, with 1 <= minWorkers <= maxWorkers"),
        ("copy_out: true", "'copy_out' is not read here; device.copy_out belongs under"),
        (
            "{batchSize: 8, micro_batching: {copy_in: false, trace_file: /tmp/t}}",
            "in their old spelling, which still works: write device.copy_in for copy_in, trace.",
        ),
        ("micro_batching: {}", "batchSize is 1, so micro_batching has nothing to cut"),
    ],
)
def test_what_looks_mistaken_gets_a_note(check, text, said):
    """A legal setting that TorchServe would ignore in silence gets a note."""
    (note,) = check(text)

    assert note.startswith("model-config.yaml: ")
    assert said in note


@pytest.mark.parametrize(
    "key",
    [
        "handler",
        "pt2",
        "max_length",
        "model_name",
        "labels",
        "metrics",
        "batching",
        "workers",
        "device",
    ],
)
def test_keys_of_handlers_get_no_note(check, key):
    """A key that is not spelled like one of the frontend's is the handler's own affair."""
    assert check(f"{key}: 1") == []
