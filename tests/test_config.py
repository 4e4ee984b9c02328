"""The micro_batching: section."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from micro_batch_handler.config import MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ConfigError

ROOT = Path(__file__).parents[1]


def config(text: str) -> MicroBatchingConfig:
    return MicroBatchingConfig.from_model_yaml(yaml.safe_load(text))


@pytest.mark.parametrize("text", ["", "minWorkers: 1", "micro_batching:"])
def test_without_a_section_the_defaults_serve(text):
    """No file, no section and an empty section all mean the defaults."""
    assert MicroBatchingConfig() == config(text)


def test_stock_torchserve_sections_are_valid():
    """The section of TorchServe's own micro-batching example means the same here."""
    text = """
    micro_batching:
      micro_batch_size: 4
      parallelism:
        preprocess: 2
        inference: 1
        postprocess: 2
    """

    assert MicroBatchingConfig(PerStage.of(4), PerStage(2, 1, 2)) == config(text)


def test_stages_that_are_not_named_keep_their_default():
    """A mapping may name some stages only."""
    text = "micro_batching: {micro_batch_size: {inference: 16}, parallelism: {preprocess: 3}}"

    assert MicroBatchingConfig(PerStage("auto", 16, "auto"), PerStage(3, "auto", "auto")) == config(
        text
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("micro_batching: 4", "micro_batching must be a mapping of keys, found 4"),
        ("- 1", "model-config.yaml must be a mapping of keys"),
        ("micro_batching: {rows: 4}", "micro_batching.rows is not a known key; known are"),
        (
            "micro_batching: {microBatchSize: 4}",
            r"\(did you mean micro_batch_size\?\); known",
        ),
        ("micro_batching: {batch-size: 4}", "did you mean micro_batch_size"),
        ("micro_batching: {stage_timout: 4}", "did you mean stage_timeout"),
        ("micro_batching: {parallelism: {preproces: 2}}", "did you mean preprocess"),
        ("micro_batching: {parallelism: 100000}", "at most 256 lanes in all stages together"),
        (
            "micro_batching: {parallelism: {preprocess: 200, postprocess: 56}}",
            r"together, found 257 \(200, auto, 56\)",
        ),
        (
            "micro_batching: {intra_op_threads: 257}",
            "threads must be a whole number from 1 to 256 or 'auto', found 257",
        ),
        ("micro_batching: {micro_batch_size: 0}", "must be a whole number >= 1 or 'auto', found 0"),
        ("micro_batching: {micro_batch_size: 2.5}", "found 2.5"),
        ("micro_batching: {micro_batch_size: many}", "found 'many'"),
        ("micro_batching: {micro_batch_size: yes}", "found True"),
        (
            "micro_batching: {parallelism: {inference: 0}}",
            "micro_batching.parallelism.inference must be a whole number >= 1 or 'auto', found 0",
        ),
        (
            "micro_batching: {parallelism: {decode: 1}}",
            "micro_batching.parallelism.decode is not a known key; known are preprocess, inference",
        ),
        ("micro_batching: {parallelism: null}", "found None"),
        (
            "micro_batching: {device: true}",
            "micro_batching.device must be a mapping of keys, found",
        ),
        (
            "micro_batching: {device: {copy_in: 1}}",
            r"device\.copy_in must be true or false, found 1",
        ),
        ("micro_batching: {device: {stream: 1}}", r"device\.stream is not .* mean streams\?"),
        ("micro_batching: {streams: false}", r"\(did you mean device\.streams\?\)"),
        ("micro_batching: {pinned_byte: 0}", r"\(did you mean device\.pinned_bytes\?\)"),
        ("micro_batching: {copy_in: 1}", r"micro_batching\.copy_in must be true or false, found 1"),
        ("micro_batching: {trace_file: t}", r"batching\.trace_file must be an absolute path, "),
        (
            "micro_batching: {copy_in: true, device: {copy_in: true}}",
            r"micro_batching\.copy_in is the old spelling of micro_batching\.device\.copy_in, and "
            "both are set; remove copy_in",
        ),
        (
            "micro_batching: {decode_input_request: 1}",
            "micro_batching.decode_input_request must be true or false, found 1",
        ),
        ("micro_batching: {buffered_reads: 1}", "micro_batching.buffered_reads must be true or"),
        ("micro_batching: {sort_by_length: 1}", "micro_batching.sort_by_length must be true or"),
        ("micro_batching: {metrics: 1}", "micro_batching.metrics must be auto, true or false"),
        ("micro_batching: {metrics: all}", "micro_batching.metrics must be auto, true or false"),
        (
            "micro_batching: {intra_op_threads: 0}",
            "intra_op_threads must be a whole number from 1 to 256 or 'auto', found 0",
        ),
        ("micro_batching: {intra_op_threads: null}", "found None"),
        (
            "micro_batching: {intra_op_threads: {inference: 0}}",
            "micro_batching.intra_op_threads.inference must be a whole number from 1 to 256 or",
        ),
        (
            "micro_batching: {allowed_sizes: 8}",
            "micro_batching.allowed_sizes must be a list of whole numbers >= 1, each above the one "
            "before, or null, found 8",
        ),
        ("micro_batching: {allowed_sizes: []}", r"or null, found \[\]"),
        ("micro_batching: {allowed_sizes: [8, 4]}", r"found \[8, 4\]"),
        ("micro_batching: {allowed_sizes: [4, 4]}", r"found \[4, 4\]"),
        (
            "micro_batching: {allowed_sizes: [yes]}",
            r"allowed_sizes must be a list of whole numbers >= 1, .*, found \[True\]",
        ),
        (
            "micro_batching: {allowed_sizes: [1, 2.5]}",
            r"each above the one before, or null, found \[1, 2.5\]",
        ),
        (
            "micro_batching: {allowed_sizes: [1, 8], micro_batch_size: 16}",
            "micro_batch_size.inference must be at most 8, the largest of allowed_sizes, found 16",
        ),
        ("asyncCommunication: true", "asyncCommunication: True cannot work with micro-batching"),
        ("continuousBatching: true", "continuousBatching: True cannot work with micro-batching"),
        ("parallelType: PP", "parallelType: 'PP' cannot work with micro-batching"),
    ],
)
def test_what_cannot_work_is_refused_with_key_rule_and_value(text, says):
    """A wrong setting is an error that TorchServe reports at load, and says what to change."""
    with pytest.raises(ConfigError, match=says) as refused:
        config(text)

    assert isinstance(refused.value, RuntimeError)


def test_what_may_be_auto_or_listed():
    """Lanes may be `auto`, for one stage or all; sizes may be limited, threads numbered."""
    text = """
    micro_batching:
      parallelism: {preprocess: auto, postprocess: 2}
      allowed_sizes: [1, 4, 16]
      micro_batch_size: {preprocess: 64, inference: 16}
      intra_op_threads: 2
    """

    expected = MicroBatchingConfig(
        PerStage(64, 16, "auto"),
        PerStage("auto", "auto", 2),
        allowed_sizes=(1, 4, 16),
        intra_op_threads=PerStage.of(2),
    )
    assert expected == config(text)
    assert PerStage.of("auto") == config("micro_batching: {parallelism: auto}").parallelism
    some = config("micro_batching: {intra_op_threads: {inference: 3}}").intra_op_threads
    assert PerStage("auto", 3, "auto") == some
    assert config("micro_batching: {allowed_sizes: null}").allowed_sizes is None


def test_old_keys_mean_what_the_new_ones_mean():
    """Keys that stood in the section itself are understood, beside others of their mapping too."""
    old = """
    micro_batching:
      cuda_streams: false
      copy_in: false
      copy_out: true
      pinned_bytes: 0
      trace_file: /tmp/trace.json
      trace_batches: 3
    """
    new = """
    micro_batching:
      device: {streams: false, copy_in: false, copy_out: true, pinned_bytes: 0}
      trace: {file: /tmp/trace.json, batches: 3}
    """
    both = "micro_batching: {trace_file: /tmp/trace.json, trace: {batches: 3}}"

    assert config(old) == config(new)
    assert config(both).trace == config(new).trace
    assert not list(config(new).doubts(32))
    [said] = config(old).doubts(32)
    assert "write device.streams for cuda_streams, device.copy_in for copy_in, " in said


@pytest.mark.parametrize("text", ["{device: null}", "{trace: {}}", "{device: {streams: true}}"])
def test_keys_that_a_mapping_leaves_out_keep_their_default(text):
    """So do those of a mapping that is empty."""
    assert MicroBatchingConfig() == config(f"micro_batching: {text}")


def test_checking_a_config_needs_neither_torch_nor_torchserve():
    """Packing tools can check a section on a machine that serves nothing."""
    code = (
        "import sys, micro_batch_handler.config, micro_batch_handler.errors;"
        "print(sorted({'torch', 'ts', 'numpy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "pt2",
    [
        {"compile": {"enable": True, "mode": "reduce-overhead"}},
        {"compile": {"mode": "max-autotune"}},  # TorchServe deletes `enable` when it loads
        {"backend": "inductor", "mode": "reduce-overhead"},
    ],
)
def test_graphs_are_made_for_few_sizes(pt2):
    """A mode of torch.compile that makes CUDA graphs is called with powers of two, up to all rows.

    Where it is not known how many these are, it is refused.
    """

    def sizes(**config):
        return MicroBatchingConfig.from_model_yaml({"pt2": pt2, **config}).allowed_sizes

    assert sizes(batchSize=1) == (1,)
    assert sizes(batchSize=16) == (1, 2, 4, 8, 16)
    assert sizes(batchSize=20) == (1, 2, 4, 8, 16, 20)
    assert sizes(batchSize=20, micro_batching={"micro_batch_size": 6}) == (1, 2, 4, 6)
    assert sizes(micro_batching={"micro_batch_size": 2}) == (1, 2)
    assert sizes(micro_batching={"allowed_sizes": [1, 3]}) == (1, 3)
    with pytest.raises(ConfigError, match="Set batchSize there"):
        sizes()
    with pytest.raises(ConfigError, match="must be 1 with allowed_sizes"):
        sizes(batchSize=8, micro_batching={"parallelism": 2})


@pytest.mark.parametrize(
    ("options", "section"),
    [({"mode": "reduce-overhead"}, {}), ({}, {"allowed_sizes": [1, 2]})],
)
def test_programs_for_any_shape_and_for_few_sizes_are_refused_together(options, section):
    """The error says what to remove, and without `dynamic` both are fine."""

    def load(**dynamic):
        compile_ = {"enable": True, **options, **dynamic}
        yaml = {"batchSize": 8, "pt2": {"compile": compile_}, "micro_batching": section}
        return MicroBatchingConfig.from_model_yaml(yaml)

    assert load() == load(dynamic=False)
    with pytest.raises(ConfigError, match="Remove dynamic and bring rows to one shape"):
        load(dynamic=True)


@pytest.mark.parametrize(
    "pt2",
    [
        None,
        "inductor",
        {"compile": {"enable": False, "mode": "reduce-overhead"}},
        {"compile": {"enable": True, "mode": "max-autotune-no-cudagraphs"}},
        {"export": {"aot_compile": True}},
    ],
)
def test_other_compilers_are_left_alone(pt2):
    """What makes no CUDA graphs needs no sizes."""
    assert MicroBatchingConfig.from_model_yaml({"pt2": pt2}).allowed_sizes is None


def test_the_table_of_keys_is_made_from_the_declarations(tmp_path):
    """`scripts/keys-table` fills a page without the table as ours is filled."""
    ours = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    place = tmp_path / "configuration.md"
    empty = re.sub(r"(?<=keys-table -->\n\n).*?(?=\n<!--)", "", ours, flags=re.DOTALL)
    place.write_text(empty, encoding="utf-8")

    subprocess.run([sys.executable, "scripts/_keys_table.py", place], cwd=ROOT, check=True)

    assert empty != ours
    assert place.read_text(encoding="utf-8") == ours
