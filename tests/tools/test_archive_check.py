"""--check fails if answers change when a batch is cut, and says what it has tried."""

from __future__ import annotations

import json
import logging
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ts.protocol.otf_message_handler import create_predict_response

from micro_batch_handler.__main__ import main
from micro_batch_handler.config import MicroBatchingConfig
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.tools import checking
from micro_batch_handler.tools.checking.alone import (
    MOST_REQUESTS,
    Alone,
    CheckError,
    Model,
    header_names,
    request_of,
    samples_in_turn,
)
from micro_batch_handler.tools.checking.answers import Answer, is_same
from micro_batch_handler.tools.checking.batches import Batches
from micro_batch_handler.tools.checking.check import check_archive
from micro_batch_handler.tools.checking.run import report_lines
from micro_batch_handler.tools.checking.ways import Settings
from micro_batch_handler.tools.checking.worker import WorkerLog
from tests.test_house import imports

HANDLER = """
import random
import sys
import threading

import store
from micro_batch_handler import MicroBatchHandler as Base

class Handler(Base):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return [3 * number for number in batch]

    def postprocess(self, outputs):
        return outputs
"""

PLAIN = HANDLER.replace(
    "micro_batch_handler import MicroBatchHandler",
    "ts.torch_handler.base_handler import BaseHandler",
)

STOCK = PLAIN.replace("import store", "from micro_batch_handler import MicroBatching").replace(
    "    def initialize",
    "    def __init__(self):\n        self.handle = MicroBatching(self)\n\n    def initialize",
)

SAMPLES = ("0.json", "1.json", "2.json")

ASKED = "check: 6 requests alone, whole, in micro-batches of 1 and of 2, and regrouped 1/6/2"

ALL_CUT = ["in micro-batches of 1", "in micro-batches of 2", "regrouped 1/6/2"]

UNCUT = (
    "Set micro_batching.micro_batch_size to batchSize or more, or keep nothing on self, or "
    "elsewhere, between stages"
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with three samples."""
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    for number in range(3):
        Path(f"{number}.json").write_text(json.dumps({"number": number + 1}))
    Path("store.py").write_text("seen = []\n")
    Path("c.yaml").write_text("batchSize: 8\n")
    return tmp_path


def pack(handler, *flags):
    Path("handler.py").write_text(handler)
    common = ["--model-name", "m", "--version", "1", "--force", "--handler", "handler.py"]
    return main(["archive", *common, "-c", "c.yaml", "--extra-files", "store.py", *flags])


def passes(capsys, handler, samples=SAMPLES):
    """What is said of a handler whose check does not fail, but its answer."""
    status = pack(handler, "--check", *samples)
    output, message = capsys.readouterr()

    assert (status, message) == (0, "")
    assert list(Path("temp").iterdir()) == []
    return [line for line in output.splitlines()[2:] if line.startswith("check: ")]


def fails(capsys, handler, samples=SAMPLES):
    """Why a handler fails its check."""
    status = pack(handler, "--check", *samples)
    first, _, log = capsys.readouterr().err.partition("\n")

    assert status == 1
    assert Path("m.mar").exists()
    assert "[METRICS]" not in log
    return first.partition("m.mar is written, but fails its check: ")[2]


def answering(expression, handler=HANDLER):
    return handler.replace("return outputs", f"return {expression}")


# Handlers, checked


def test_a_handler_with_nothing_wrong_is_asked_in_all_ways(capsys):
    """The first answer, of one request alone, is printed; then a line on all that was asked."""
    Path("c.yaml").write_text("batchSize: 4\n")

    assert pack(answering("[{'number': n} for n in outputs]"), "--check", *SAMPLES) == 0

    output = capsys.readouterr().out.partition("\n")[2]
    first = 'check: status 200 application/json\n{\n  "number": 3\n}\n'
    assert output == f"{first}{ASKED}: the same answers\n"


def test_answers_that_change_with_the_cut_fail(capsys):
    """A postprocess that is right for one row and for the whole batch only is found."""
    why = fails(capsys, answering("[[n, 1 < len(outputs) < 6] for n in outputs]"))

    assert why == (
        "in micro-batches of 2, the answer to request 1 of 6 (0.json) is 200 application/json "
        f"[3,true], alone and in an uncut batch 200 application/json [3,false]. {UNCUT}"
    )


def test_state_that_the_package_cannot_see_is_found(capsys):
    """State that a library's module keeps between stages, and gives another client, is found."""
    keeps = "threading.seen = [row['body']['number'] for row in data]\n        return [row"
    handler = HANDLER.replace("return [row", keeps)

    why = fails(
        capsys, answering("[[n, threading.seen[0]] for n in outputs]", handler), SAMPLES[:2]
    )

    # Alone it is the request's own number; whole, the first one's.
    assert "requests" not in why
    assert why.endswith(UNCUT)


def test_requests_that_fail_in_a_cut_batch_are_found(capsys):
    """A fault that only cut batches bring fails the check, with what its client would be told."""
    spoils = "store.seen += [1] * (threading.current_thread() is not threading.main_thread())"
    handler = HANDLER.replace("return [row", f"{spoils}\n        return [store.seen or row")

    why = fails(capsys, handler.replace("return [3 *", "return [3 / 1 *"))

    assert why.startswith("in micro-batches of 1, the answer to request ")
    assert "500 Internal Server Error: {" in why
    assert why.endswith(f"alone and in an uncut batch 200 application/json 3.0. {UNCUT}")


def test_what_the_package_makes_of_a_handler_is_noted(capsys):
    """A handler that works in its own thread only is served whole, and the user is told why."""
    bound = "assert threading.current_thread() is threading.main_thread()\n        return [3"

    lines = passes(capsys, HANDLER.replace("return [3", bound))

    assert lines[0] == f"{ASKED}: the same answers"
    assert lines[1].startswith("check: note: Handler is called with whole batches, in the worker's")


def test_random_answers_are_compared_by_status(capsys):
    """Answers that are not the same twice cannot be compared, and the check says so."""
    lines = passes(capsys, answering("[random.random() for _ in outputs]"))

    assert lines == [
        f"{ASKED}: the same answers",
        "check: note: of 6 requests only the status was compared, since their answers are not the "
        "same each time",
    ]


def test_answers_that_change_with_time_are_no_failure(capsys):
    """A request whose answer differs in a cut batch is asked alone again, and may have changed."""
    # Six requests alone, the same again, and the whole batch: then an hour has struck.
    later = answering("[store.seen.append(1) or len(store.seen) > 13] * len(outputs)")

    lines = passes(capsys, later)

    assert lines[0] == f"{ASKED}: the same answers"
    assert lines[1].startswith("check: note: of 6 requests only the status was compared")


def test_answers_that_depend_on_the_batch_are_noted(capsys):
    """An answer that differs in an uncut batch is noted, and does not fail the check."""
    lines = passes(capsys, answering("[len(outputs) for _ in outputs]"), ["0.json"])

    assert lines == [
        f"{ASKED}: all answered",
        "check: note: answers differ with the batch that they are in, also without micro-batching: "
        "whole, the answer to request 1 of 6 (0.json) is 200 application/json 6, alone 200 "
        "application/json 1",
    ]


def test_each_request_has_headers_of_its_own(capsys):
    """Headers that the handler asks for are sent; a mix-up of them shows with one sample, too."""
    user = "self.context.get_request_header({}, 'x-user')"
    right = answering(f"[{user.format('i')} for i, _ in enumerate(outputs)]")
    wrong = answering(
        f"[{user.format('i if len(outputs) != 2 else 0')} for i, _ in enumerate(outputs)]"
    )

    assert passes(capsys, right, ["0.json"]) == [
        ASKED.replace("requests", "requests, each with its own x-user,") + ": the same answers"
    ]
    assert fails(capsys, wrong, ["0.json"]).startswith(
        "in micro-batches of 2, the answer to request 2 of 6 (0.json) is 200 check-0, alone and in "
        "an uncut batch 200 check-1. "
    )


def test_headers_that_must_be_something_else_are_left_out(capsys):
    """A handler that reads a number there is asked without that header, and the check says so."""
    # The first request's happens to be good.
    number = "{'check-0': 0, None: 5}[self.context.get_request_header(0, 'x-top')]"

    assert passes(capsys, answering(f"[{number} for _ in outputs]")) == [
        f"{ASKED}: the same answers",
        "check: note: x-top was not sent, since the handler refuses a text of the check's there",
    ]


def test_a_sample_that_fails_alone_is_named(capsys):
    """One of several samples that is not answered with 200 fails the check, by its name."""
    Path("1.json").write_text('{"letter": "a"}')

    why = fails(capsys, HANDLER)

    assert why.startswith("1.json: its answer is 400 Bad Request: ")


def test_a_body_that_is_not_json_fails_as_on_a_server(capsys):
    """The status, the message and the one line of the log are those of a server."""
    Path("bad.json").write_text("{")

    status = pack(HANDLER, "--check", "bad.json")

    said = capsys.readouterr().err
    assert status == 1
    assert "its answer is 400 Bad Request: " in said
    assert '"type": "BodyError", "message": "preprocess: the body is not valid JSON: ' in said
    assert (
        "\n  | answered 400 to requests check-0: preprocess: the body is not valid JSON: " in said
    )
    assert "Traceback" not in said


def test_a_handler_that_does_not_micro_batch_is_asked_as_it_is(capsys):
    """Its batch stays whole, and answers that depend on the batch are noted."""
    assert passes(capsys, PLAIN) == ["check: 6 requests alone and in one batch: the same answers"]
    assert passes(capsys, PLAIN.replace("in data", "in data[:1]")) == [
        "check: 6 requests alone and in one batch: all answered",
        "check: note: answers differ with the batch that they are in: in one batch, the answer to "
        "request 1 of 6 (0.json) is 503 number of batch response mismatched, alone 200 3",
    ]


def test_a_process_that_ends_in_a_batch_says_in_which(capsys):
    """If the worker is gone, the check says what it was asked last."""
    ends = "import os\n        len(batch) == 1 or os._exit(3)\n        return [3"

    why = fails(capsys, PLAIN.replace("return [3", ends))

    assert why == (
        "the process that loads it ended with status 3 before it answered all requests in one batch"
    )


def test_micro_batching_as_an_attribute_is_told_too(capsys):
    """A handler with TorchServe's kind of `MicroBatching` is cut in the same ways."""
    assert passes(capsys, STOCK) == [f"{ASKED}: the same answers"]
    assert fails(capsys, answering("[1 < len(outputs) < 6 for _ in outputs]", STOCK)).startswith(
        "in micro-batches of 2, the answer to request 1 of 6 (0.json) is "
    )


def test_several_lanes_are_tried_where_they_are_asked_for(capsys):
    """Methods that do not stand several threads are found, if the settings have several."""
    second = "any(t.name == 'mbh-postprocess-1' for t in threading.enumerate())"
    cut = "threading.current_thread() is not threading.main_thread()"
    handler = answering(f"[{cut} and {second} for _ in outputs]")
    assert passes(capsys, handler) == [f"{ASKED}: the same answers"]

    Path("c.yaml").write_text("batchSize: 8\nmicro_batching: {parallelism: {postprocess: 4}}\n")

    assert fails(capsys, handler) == (
        "in several lanes, the answer to request 1 of 6 (0.json) is 200 application/json true, "
        "alone and in an uncut batch 200 application/json false. Set micro_batching.parallelism to "
        "1, or let the methods of the handler stand several threads at once"
    )


def test_another_version_of_the_package_is_asked_single_requests():
    """An archive with a package whose lanes cannot be ended is checked as far as it can be."""
    package = """
class MicroBatchMixin:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [row["body"]["number"] for row in data]
"""
    handler = "from micro_batch_handler import MicroBatchMixin\nclass Handler(MicroBatchMixin): ..."
    manifest = {"model": {"modelName": "m", "handler": "handler.py"}}
    with zipfile.ZipFile("m.mar", "w") as archive:
        archive.writestr("micro_batch_handler/__init__.py", package)
        archive.writestr("handler.py", handler)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))

    assert check_archive(Path("m.mar"), "default", [Path("0.json")]).splitlines() == [
        "check: status 200",
        "1",
        "check: 6 requests alone",
        "check: note: no batches were asked, since the settings of the micro_batch_handler in the "
        "archive cannot be changed: AttributeError: type object 'MicroBatchMixin' has no attribute "
        "'close'",
    ]


def test_the_process_imports_nothing_of_the_package_but_its_own_files():
    """The archive's copy may be another version, without the names that this one has."""
    for path in Path(checking.__file__).parent.glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("micro_batch_handler")}
        if path.name != "check.py":
            assert all(name.startswith(f"{checking.__name__}.") for name in ours), path


def test_absent_samples_are_refused_before_anything_is_written(capsys):
    """Each of several samples must be a file."""
    assert pack(HANDLER, "--check", "0.json", "9.json") == 1

    assert "--check 9.json: there is no such file" in capsys.readouterr().err
    assert not Path("m.mar").exists()


# Requests


def test_names_of_headers_are_read_in_the_root_of_the_archive(place):
    """Names are found as arguments and as constants, except those that every request has."""
    (place / "a.py").write_text(
        "KEY = 'x-key'\n"
        "class A:\n"
        "    Other = 'x-other'\n"
        "    def f(self, c, i):\n"
        "        c.get_request_header(i, 'x-a'); c.get_request_header(idx=i, key='x-b')\n"
        "        c.get_request_header(0, KEY); c.request_processor[0].get_request_property('x-c')\n"
        "        c.get_request_header(0, self.Other); c.get_request_header(0, 'Content-Type')\n"
        "        c.get_request_header(0, i); get_request_header(0, 'x-no'); c.get('x-no')\n"
    )
    (place / "broken.py").write_text("def")
    (place / "folder").mkdir()
    (place / "folder/b.py").write_text("c.get_request_header(0, 'x-no')")

    assert header_names(place) == ["x-a", "x-b", "x-c", "x-key", "x-other"]


def test_samples_are_sent_in_turn():
    """There are six requests, or as many as samples, up to a limit."""
    samples = [Path(str(number)) for number in range(20)]

    assert samples_in_turn(samples[:4]) == [*samples[:4], *samples[:2]]
    assert samples_in_turn(samples[:9]) == samples[:9]
    assert samples_in_turn(samples) == samples[:MOST_REQUESTS]


def test_each_request_is_made_anew():
    """A request has an id and headers of its own, and a handler may spoil it."""
    made = request_of(Path("1.json"), 4, ["x-a"])

    assert made["requestId"] == b"check-4"
    assert made["headers"][-1] == {"name": b"x-a", "value": b"check-4"}
    made["parameters"][0]["value"].clear()
    assert request_of(Path("1.json"), 4, [])["parameters"][0]["value"] == {"number": 2}


# Answers


def answer(body, status=200, content_type="", problem=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, content_type, data, problem)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": [1.0, "x"]}, {"a": [1.0005, "x"]}, True),
        ({"a": 1.0}, {"a": 1.01}, False),
        (0.0, 1e-6, True),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (1, 1.0, True),
        (100001, 100002, False),
        (True, 1, False),
        ([1], [1, 2], False),
        ({"a": 1}, {"b": 1}, False),
        (b'{"a": 1}', b'{"a":1}', True),
        (b"\xff", b"\xff", True),
        (b"\xff", b"\xfe", False),
        (b"text", b"Text", False),
        (None, "null", False),
    ],
)
def test_answers_are_the_same_if_their_numbers_are_near(one, other, same):
    """Floats may differ in their last digits; anything else must be the same."""
    assert is_same(answer(one), answer(other)) is same
    assert is_same(answer(one), answer(other), loose=True)


def test_answers_of_another_kind_or_status_differ():
    """A content type counts; of failures only the status does."""
    assert not is_same(answer(1), answer(1, content_type="text/plain"))
    assert not is_same(answer(1), answer(1, status=500), loose=True)
    assert is_same(answer("a", status=500), answer("b", status=500))


def test_answers_are_shown_in_a_few_words():
    """Long bodies are cut, bytes are counted, failures say why."""
    assert str(answer([1, 2], content_type="text/x")) == "200 text/x [1, 2]"
    assert str(answer(b"\xff\xfe")) == "200 (2 bytes)"
    assert len(str(answer("a" * 1000))) < 200
    assert (
        str(answer(1, problem="its answer is 503 Oh: ValueError: no")) == "503 Oh: ValueError: no"
    )


# Ways


def settings(section=None, batching=None):
    closed = []
    context = SimpleNamespace(model_yaml_config={"a": 1, "micro_batching": section})
    mixin = SimpleNamespace(close=lambda handler: closed.append({**vars(handler)}))
    made = Settings(mixin, SimpleNamespace(name="handler"), context, batching)
    return made, context, closed


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (None, ["micro-batches of 1", "micro-batches of 2", "regrouped 1/6/2"]),
        ({"parallelism": 2}, ["of 1", "of 2", "1/6/2", "several lanes"]),
        ({"parallelism": "auto"}, ["of 1", "of 2", "1/6/2", "several lanes"]),
        ({"parallelism": {"inference": "auto"}}, ["of 1", "of 2", "1/6/2"]),
        ({"allowed_sizes": [1, 4], "on_error": "fail_batch"}, ["of 1", "of 2", "1/4/2"]),
        ({"allowed_sizes": [1], "sort_by_length": True}, ["of 1", "1/1/2"]),
    ],
)
def test_ways_keep_the_other_settings_and_are_valid(section, names):
    """Each way is one that the package takes, beside the archive's own keys."""
    made, context, closed = settings(section)

    ways = made.ways(6)

    assert len(ways) == len(names)
    assert all(way.name.endswith(name) for way, name in zip(ways, names, strict=True))
    for way in [made.whole(made.most(6)), *ways]:
        made.apply(way)
        config = MicroBatchingConfig.from_model_yaml(context.model_yaml_config)
        assert vars(config.micro_batch_size) == way.sizes
        assert vars(config.parallelism) == way.lanes
        kept = {**context.model_yaml_config["micro_batching"], **(section or {})}
        assert kept.keys() >= context.model_yaml_config["micro_batching"].keys()
    assert closed == [{"name": "handler"}] * (len(ways) + 1)


def test_a_shared_model_is_kept_from_way_to_way():
    """Closing the handler does not see by what it asks the model; afterwards that is there."""
    made, _, closed = settings()
    made.handler._micro_batch_member = "asks"

    made.apply(made.whole(6))

    assert closed == [{"name": "handler"}]
    assert made.shares_model
    assert made.handler._micro_batch_member == "asks"


def test_lanes_of_a_micro_batching_are_asked_for():
    """Lanes that are set on the object count like those in model-config.yaml."""
    batching = SimpleNamespace(parallelism={"postprocess": 3}, micro_batch_size=1)
    made, _, _ = settings({}, batching)

    way = made.ways(6)[-1]
    made.apply(way)

    assert way.lanes == batching.parallelism == {"preprocess": 1, "inference": 1, "postprocess": 2}
    assert batching.micro_batch_size == dict.fromkeys(way.lanes, 1)


# Batches, and what is said


def batches_of(bodies, whole=200, cut=200, refused=()):
    """Batches of six, whose answers are `bodies[rows]` alone and whole, and None when cut.

    Args:
        bodies: by the rows of the batch; two of them.
        whole: the status of an uncut batch.
        cut: that of a cut one.
        refused: ways that the package takes for wrong settings.
    """
    log = WorkerLog()
    real, context, _ = settings()
    context.system_properties = {"batch_size": 8}
    applied = []

    def predict(batch):
        ids = {at: str(at) for at in range(len(batch))}
        way, is_cut = applied[-1] if applied else "", len(applied) > 1 and len(batch) > 1
        log.last_error = ConfigError("no") if way in refused else None
        status = cut if is_cut else whole if len(batch) > 1 else 200
        answers = [None if is_cut else bodies[len(batch)]] * len(batch)
        return create_predict_response(answers, ids, "", status)

    told = SimpleNamespace(
        most=real.most, whole=real.whole, ways=real.ways, apply=lambda way: applied.append(way.name)
    )
    service = SimpleNamespace(predict=predict, context=context)
    alone = Alone(Model(service, [Path("0.json")], [], log, 1e9))
    return Batches(alone, told, [].append)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"bodies": {1: "a", 6: "a"}},
            "0.json) is 200 null, alone and in an uncut batch 200 a. ",
        ),
        ({"bodies": {1: "a", 6: "a"}, "refused": ["whole"]}, "is 200 null, alone 200 a. "),
        ({"bodies": {1: "a", 6: "b"}, "cut": 500}, ", alone 200 a, in an uncut batch 200 b. "),
    ],
)
def test_what_came_and_what_should_have_come_is_said(arguments, says):
    """A cut batch must bring an answer that came before; the message shows all of them."""
    with pytest.raises(CheckError) as error:
        batches_of(**arguments).run()

    assert says in str(error.value)
    assert str(error.value).endswith(UNCUT)


def test_a_handler_that_depends_on_its_batch_may_answer_otherwise_again():
    """If a request is answered otherwise in an uncut batch, a cut one may bring a third answer."""
    for whole in (200, 503):
        batches = batches_of({1: "a", 6: "b"}, whole=whole)

        batches.run()

        assert batches.differs.startswith("whole, the answer to request 1 of 6 (0.json) is ")
        assert len(batches.done) == 4


def test_settings_that_the_package_refuses_are_passed_over():
    """A way that the package refuses does not fail the check, and is not listed."""
    batches = batches_of({1: "a", 6: "a"}, refused=["whole", *ALL_CUT])

    batches.run()

    assert (batches.done, batches.differs) == ([], "")


def lines_of(until_s, *calls_s, samples=1):
    """What is said of a model whose calls take so many seconds."""
    clock = SimpleNamespace(now_s=0, left=[*calls_s])

    def predict(batch):
        clock.now_s += clock.left.pop(0)
        ids = {at: read["requestId"].decode() for at, read in enumerate(batch)}
        return create_predict_response([*ids.values()], ids, "", 200)

    context = SimpleNamespace(system_properties={"batch_size": 1})
    service = SimpleNamespace(predict=predict, context=context)
    sent = [Path("0.json")] * samples
    alone = Alone(Model(service, sent, [], WorkerLog(), until_s, lambda: clock.now_s))
    batches = Batches(alone, None, [].append)
    batches.run()
    assert context.system_properties == {"batch_size": 1}
    assert clock.left == []
    return report_lines(alone, batches)[2:]


@pytest.mark.parametrize(
    ("until_s", "calls_s", "asked", "no_time_for"),
    [
        (100, [1] * 13, "6 requests alone and in one batch", ""),
        (5, [9], "1 request alone", "5 more requests"),
        (10, [1] * 7, "3 requests alone and in one batch", "3 more requests"),
        (6, [1, 1, 3, 3], "2 requests alone", "4 more requests, in one batch"),
        (5, [1, 3], "2 requests alone", "4 more requests, batches"),
    ],
)
def test_a_slow_model_is_asked_less(until_s, calls_s, asked, no_time_for):
    """One request is always asked; then as much as fits into the time, and the rest is noted."""
    lines = lines_of(until_s, *calls_s)

    assert lines[0].startswith(f"check: {asked}")
    notes = [f"check: note: there was no time for {no_time_for}"] if no_time_for else []
    assert [line for line in lines[1:] if "differ" not in line] == notes


def test_samples_that_are_not_sent_are_noted():
    """With more samples than requests, the last ones are left out, and a note says so."""
    lines = lines_of(100, *[1] * (2 * MOST_REQUESTS + 1), samples=MOST_REQUESTS + 1)

    assert "check: note: 16 requests are the most, so the last samples were not sent" in lines


def test_warnings_of_the_package_are_kept_once():
    """The first warning of each kind is kept, but none of failed calls or of other packages."""
    log = WorkerLog()

    def warn(name, text, *arguments, level=logging.WARNING, exc_info=None):
        log.handle(logging.LogRecord(name, level, "", 0, text, arguments, exc_info))

    warn("micro_batch_handler.a", "calls %d", 1)
    warn("micro_batch_handler.a", "calls %d", 2)
    warn("micro_batch_handler.a", "failed once\nTraceback")
    warn("micro_batch_handler.a", "failed", exc_info=(None, None, None))
    warn("micro_batch_handler.a", "an error", level=logging.ERROR)
    warn("users", "something")
    log.keeps_warnings = False
    warn("micro_batch_handler.b", "unheard")

    assert log.warnings == ["calls 1"]
