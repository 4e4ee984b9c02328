"""A micro-batch's view of the batch's Context."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ts.context import Context, RequestProcessor

from micro_batch_handler.torchserve.context import MicroBatchContext
from tests.fakes import fake_context


@pytest.fixture
def batch():
    """The context of a batch of six requests."""
    return fake_context(6, headers=[{"name": f"client-{i}"} for i in range(6)])


@pytest.fixture
def view(batch):
    """What a micro-batch of the requests 2, 4 and 5 sees."""
    return MicroBatchContext(batch, [2, 4, 5])


def test_index_0_is_the_micro_batchs_first_row(view):
    """Headers and request ids are read by the place in the micro-batch."""
    names = [view.get_request_header(index, "name") for index in range(3)]

    assert ["client-2", "client-4", "client-5"] == names
    assert {"name": "client-4"} == view.get_all_request_header(1)
    assert ["id-2", "id-4", "id-5"] == [view.get_request_id(index) for index in range(3)]
    assert view.get_request_id(3) is None


def test_what_is_set_reaches_the_right_requests_when_it_counts(batch, view):
    """Statuses and headers appear in the batch with `keep`, and only there where they were set."""
    view.set_response_status(404, "gone", 1)
    view.set_response_header(2, "x-model", "a")
    view.set_response_content_type(0, "text/plain")
    assert (200, None) == batch.get_response_status(4)

    view.keep()

    assert (404, "gone") == batch.get_response_status(4)
    assert {"x-model": "a"} == batch.get_response_headers(5)
    assert "text/plain" == batch.get_response_content_type(2)
    assert [(200, None)] * 5 == [batch.get_response_status(i) for i in (0, 1, 2, 3, 5)]


def test_json_says_that_it_is_unless_a_stage_says_otherwise(batch, view):
    """A content type that is set, in any spelling, stays; the other answers get JSON's."""
    view.set_response_header(0, "Content-Type", "text/csv")
    view.answers_json([0, 2])
    assert {} == batch.get_response_headers(5)

    view.keep()

    assert {"Content-Type": "text/csv"} == batch.get_response_headers(2)
    assert {} == batch.get_response_headers(4)
    assert {"content-type": "application/json"} == batch.get_response_headers(5)


def test_json_is_said_without_copies(batch):
    """A stage that has set nothing is not made to look at what its requests have set."""
    view = MicroBatchContext(batch, [3])
    view.answers_json([0])
    view.keep()

    assert {"content-type": "application/json"} == batch.get_response_headers(3)
    assert "_request_processor" not in vars(view)


def test_what_one_stage_set_is_seen_and_changed_by_the_next(batch, view):
    """A later stage starts from what an earlier one left."""
    view.set_response_status(202, "wait", 0)
    view.set_response_header(0, "x-a", "1")
    view.keep()

    later = MicroBatchContext(batch, [2])
    assert (202, "wait") == later.get_response_status(0)
    later.set_response_header(0, "x-b", "2")
    del later.get_response_headers(0)["x-a"]
    later.keep()

    assert {"x-b": "2"} == batch.get_response_headers(2)


def test_all_statuses_means_all_of_the_micro_batch(batch, view):
    """`set_all_response_status` leaves the other micro-batches alone."""
    view.set_all_response_status(206, "part")
    view.keep()

    assert [200, 200, 206, 200, 206, 206] == [batch.get_response_status(i)[0] for i in range(6)]


def test_a_phrase_that_would_harm_the_frontend_is_cleaned(batch, view):
    """Line ends would end the worker's thread, other alphabets break the worker protocol."""
    view.set_response_status(422, "línea\r\nend", 0)
    view.keep()

    assert (422, "l?nea  end") == batch.get_response_status(2)


@pytest.mark.parametrize(
    "set_wrong",
    [
        lambda view: view.set_response_header(1, "x-a", None),
        lambda view: view.set_response_header(1, "x-a", "one\r\ntwo"),
        lambda view: view.set_response_header(1, "x a", "one"),
        lambda view: view.set_response_header(1, "x-a", "\ud800"),
        lambda view: view.set_response_content_type(1, "text/señor"),
        lambda view: view.set_response_status("404", "", 1),
        lambda view: view.set_response_status(100, "", 1),
    ],
)
def test_what_torchserve_cannot_send_is_refused_and_nothing_of_it_kept(batch, view, set_wrong):
    """It would break the protocol for the whole batch; here it is an error of the call."""
    view.set_response_status(201, "made", 0)
    set_wrong(view)

    with pytest.raises(ValueError, match="response"):
        view.keep()

    assert [(200, None)] * 6 == [batch.get_response_status(index) for index in range(6)]
    assert {} == batch.get_response_headers(4)


def test_what_the_load_fixed_is_shared(batch, view):
    """Manifest, properties and the yaml section are the batch's own objects."""
    assert batch.system_properties is view.system_properties
    assert batch.manifest is view.manifest
    assert batch.model_yaml_config is view.model_yaml_config
    assert isinstance(view, Context)
    with pytest.raises(AttributeError, match="no_such"):
        _ = view.no_such


def test_metrics_from_a_stage_carry_the_right_request(batch, view):
    """An index means the micro-batch's row, and no list of dimensions is shared between calls."""
    view.metrics.add_counter("seen", 1, 2)
    view.metrics.add_time("took", 3, idx=0, unit="s")
    view.metrics.add_counter("all", 1)

    assert [("seen", 1, 5), ("took", 3, 2), ("all", 1, None)] == [
        emitted[:3] for emitted in batch.metrics.emitted
    ]
    dimensions = [id(emitted[3]) for emitted in batch.metrics.emitted]
    defaults = inspect.signature(type(batch.metrics).add_counter).parameters["dimensions"].default
    assert len({*dimensions, id(defaults)}) == 4


def test_metrics_of_a_view_of_a_view_carry_the_right_request(batch, view):
    """A part of a batch, beside a describe request, has views of a view: none may hang."""
    MicroBatchContext(view, [2, 1]).metrics.add_counter("seen", 1, 0)

    assert [("seen", 1, 5)] == [emitted[:3] for emitted in batch.metrics.emitted]


def test_lanes_that_ask_at_once_set_the_same_statuses(batch):
    """What two lanes set in a view of a part of a batch is in the one that is kept."""
    meet = threading.Barrier(2, timeout=60)

    class Meeting(RequestProcessor):
        def get_request_properties(self):
            meet.wait()
            return super().get_request_properties()

    batch.request_processor = [Meeting({}) for _ in range(6)]
    view = MicroBatchContext(batch, [2, 4, 5])

    with ThreadPoolExecutor(2) as lanes:
        first, second = lanes.map(lambda _: view.request_processor, range(2))

    assert first is second


def test_a_view_without_requests_behaves_as_the_batch(view):
    """At load there are no requests yet, and reading them gives nothing."""
    context = fake_context(0)
    context.request_ids = context.request_processor = None
    empty = MicroBatchContext(context, [])

    assert empty.get_request_id(0) is None
    empty.set_response_status(500, "x", 0)
    empty.keep()
