"""What stages keep outside their payloads: found in the source of a handler."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from pathlib import Path

import pytest
import ts.torch_handler
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.torchserve.reading.stage_state import Shared, state_in_file, state_of_class


def of(source, name="Handler"):
    return state_in_file(ast.parse(textwrap.dedent(source)), name)


def handler(preprocess="pass", inference="pass", postprocess="pass", more="", before=""):
    """The source of a handler, from what its stages do; `more` stands in the class."""
    stages = {"preprocess": preprocess, "inference": inference, "postprocess": postprocess}
    lines = [textwrap.dedent(before), "class Handler(BaseHandler):"]
    for name, body in stages.items():
        lines.append(f"    def {name}(self, data):")
        lines.append(textwrap.indent(textwrap.dedent(body).strip(), " " * 8))
    lines.append(textwrap.indent(textwrap.dedent(more), "    "))
    return "\n".join(lines)


def found(**stages):
    """Names and stages of what is shared."""
    return [(it.name, it.stored_in, it.read_in, it.kind) for it in of(handler(**stages)).shared]


def attribute(name, stored_in="preprocess", read_in="postprocess"):
    return [(name, stored_in, read_in, "attribute")]


def test_an_ordinary_handler_shares_nothing():
    """What initialize stores, stages may read; a handler that only does this has no state."""
    state = of(
        handler(
            "return torch.stack([self.transform(row) for row in data]).to(self.device)",
            "return self.model(data)",
            "return [self.mapping[str(row.argmax())] for row in data]",
            """
            def initialize(self, context):
                super().initialize(context)
                self.mapping = {}
                self.transform = make(self)
            """,
        )
    )

    assert state.shared == ()
    assert state.harmless == frozenset()
    assert not any(state.scratch.values())
    assert not state.escapes


DOGS = """
class Dogs(BaseHandler):
    def preprocess(self, data):
        self.is_dogs = [True] * len(data)
        for index, row in enumerate(data):
            self.is_dogs[index] = bool(row)
        return data

    def postprocess(self, outputs):
        return [out if dog else None for out, dog in zip(outputs, self.is_dogs)]
"""


def test_it_is_told_what_is_stored_where_and_read_where():
    """A finding has the name as in the source, both stages and both lines, and says so."""
    (shared,) = of(DOGS, "Dogs").shared

    assert shared == Shared("self.is_dogs", "preprocess", 4, "postprocess", 10)
    assert str(shared) == (
        "self.is_dogs, stored in preprocess (line 4) and read in postprocess (line 10)"
    )


@pytest.mark.parametrize(
    "store",
    [
        "self.x = len(data)",
        "self.x: int = len(data)",
        "self.x += 1",
        "del self.x",
        "first, (self.x, *rest) = data",
        "[*self.x] = data",
        "for self.x in data: pass",
        "with open(data) as self.x: pass",
        "rows = [0 for self.x in data]",
        "y = self.x = 1",
        "self.x.y.z = 1",
        "self.x[0] = 1",
        "self.x['a'][data[0]].b = 1",
        "del self.x[0]",
        "self.x.append(1)",
        "self.x.rows.extend(data)",
        "self.x.setdefault(data[0], []).append(1)",
        "self.x.pop()",
        "self.x.put(data)",
        "self.x.fill_(0)",
        "self.x.data.copy_(data)",
        "np.copyto(self.x, data)",
        "np.multiply(data, 2, out=self.x)",
        "setattr(self, 'x', len(data))",
        "delattr(self, 'x')",
        "getattr(self, 'x').append(1)",
        "setattr(self.x, 'size', 1)",
        "me = self; me.x = 1",
        "me, n = self, 1\nme.x = n",
        "(me := self).x = 1",
        "for row in self.x: row.append(1)",
        "heapq.heappush(self.x, 1)",
        "rows = self.x; rows.append(1)",
        "if (rows := self.x): rows.append(1)",
        "def inner(row):\n    self.x = row\nmap(inner, data)",
        "lambda row: self.x.append(row)",
        "[self.x.append(row) for row in data]",
        "try:\n    pass\nfinally:\n    self.x = 1",
        "match data:\n    case _:\n        self.x = 1",
        "type(self).x = 1",
        "self.__class__.x = 1",
        "type(self).x.append(1)",
        "Handler.x = 1",
    ],
)
def test_every_way_to_store_is_one(store):
    """However an attribute is stored or changed in one stage, another that reads it shares it."""
    ((name, *others),) = found(preprocess=store, postprocess="return self.x")

    assert name.partition(".")[2] == "x"
    assert others == ["preprocess", "postprocess", "attribute"]


@pytest.mark.parametrize(
    "load",
    [
        "return self.x",
        "return getattr(self, 'x', None)",
        "return self.x.rows[0]",
        "return self.x.get(data)",
        "return self.x.pop()",
        "return self.x.setdefault(data, 1)",
        "self.x += 1",
        "me = self\nreturn me.x",
        "return [row + self.x for row in data]",
        "return map(lambda row: row + self.x, data)",
        "return type(self).x",
        "return Handler.x",
        "return f'{self.x}'",
        "if hasattr(self, 'x'): return 1",
    ],
)
def test_every_way_to_read_is_one(load):
    """However the other stage reads, it is seen."""
    assert found(preprocess="self.x = 1", postprocess=load)[0] == attribute("self.x")[0]


@pytest.mark.parametrize(
    "harmless",
    [
        "self.x.append(data)",
        "self.x[data] = 1",
        "self.x = 1",
        "del self.x",
        "y = data.x",
        "def inner(self):\n    return self.x\nreturn inner",
    ],
)
def test_what_is_not_read_is_not_shared(harmless):
    """A store that gives nothing is no reading, nor is an attribute of something else."""
    assert found(preprocess="self.x = 1", postprocess=harmless) == []


@pytest.mark.parametrize(
    ("inference", "more", "before"),
    [
        ("return self._sizes(data)", "def _sizes(self, rows): self.x = len(rows)", ""),
        (
            "return self._a(data)",
            "def _a(self, n): self._b(n)\ndef _b(me, n): me.x = self._a(n)",
            "",
        ),
        ("return list(map(self._one, data))", "def _one(self, row): self.x = row", ""),
        ("return self.pool.map(self._one, data)", "def _one(self, row): self.x = row", ""),
        ("return super().inference(data)", "", ""),
        ("return Base.inference(self, data)", "", ""),
        ("return helper(self, data)", "", "def helper(handler, rows): handler.x = len(rows)"),
        ("helper(self, *data)", "", "def helper(handler, *rows): handler.x = len(rows)"),
        ("helper(data, handler=self)", "", "def helper(rows, *, handler): handler.x = len(rows)"),
        ("fill(self.x, data)", "", "def fill(to, rows): to.extend(rows)"),
        ("type(self).note(data)", "@classmethod\ndef note(cls, data): cls.x = data", ""),
        ("self.note(data)", "@classmethod\ndef note(cls, data): cls.x = data", ""),
        ("Handler.note(self, data)", "def note(self, data): self.x = data", ""),
        ("return self.size", "@property\ndef size(self):\n    self.x = 1\n    return 1", ""),
        (
            "self.size = 1",
            "@property\ndef size(self): pass\n@size.setter\ndef size(self, n): self.x = n",
            "",
        ),
        ("self.note(self, data)", "@staticmethod\ndef note(it, data): it.x = data", ""),
        (
            "with_rows(self.note)",
            "def note(self, data): self.x = data",
            "def with_rows(call): pass",
        ),
    ],
)
def test_what_a_stage_calls_belongs_to_it(inference, more, before):
    """Methods, bases, helpers of the file, properties, and functions handed around are followed."""
    base = "class Base:\n    def inference(self, data): self.x = data\n"
    source = handler("pass", inference, "return self.x", more, base + before).replace(
        "Handler(BaseHandler)", "Handler(Base)"
    )

    (shared,) = of(source).shared

    assert shared.name.partition(".")[2] == "x"
    assert (shared.stored_in, shared.read_in) == ("inference", "postprocess")


def test_a_property_is_followed():
    """What a getter reads is read by the stage that names it."""
    getter = "@property\ndef sizes(self): return self._sizes"

    assert found(
        preprocess="self._sizes.append(1)", postprocess="return self.sizes", more=getter
    ) == attribute("self._sizes")


@pytest.mark.parametrize("mark", ["keeps", "keeps_as('x')"])
def test_a_decorator_of_the_file_belongs_to_the_stage(mark):
    """What a wrapper stores is stored in the stage; the method that it calls is no stranger."""
    source = f"""
    def keeps(function):
        @functools.wraps(function)
        def wrapper(self, *args):
            self.x = args
            return function(self, *args)
        return wrapper
    def keeps_as(name):
        def decorator(function):
            @functools.wraps(function)
            def wrapper(me, data):
                me.x = data
                return function(me, data)
            return wrapper
        return decorator
    class Handler:
        @{mark}
        def preprocess(self, data): pass
        def inference(self, data): return self.x
    """

    state = of(source)

    assert [it.name for it in state.shared] == ["self.x"]
    assert not state.escapes


def test_prompt_lengths_through_helpers():
    """What one helper stores and another reads is shared by the stages that call them."""
    assert found(
        preprocess="return [self._encode(row) for row in data]",
        postprocess="return self._cut(data)",
        more="""
        def _encode(self, text):
            self.lengths.append(len(text))
        def _cut(self, rows):
            return [row[n:] for row, n in zip(rows, self.lengths)]
        """,
    ) == attribute("self.lengths")


def test_a_stage_that_calls_another_stage_does_what_that_does():
    """Accesses of a called stage count for its caller."""
    assert found(preprocess="self.x = 1", inference="self.preprocess(data)\nreturn self.x") == (
        attribute("self.x", "preprocess", "inference")
    )


def test_classes_of_a_file_inherit():
    """Stages come from the classes that have them, by the order of the bases."""
    source = """
    class Sizes:
        def preprocess(self, data):
            self.sizes = [row.size for row in data]
    class Other:
        def preprocess(self, data): pass
    class Scale(Sizes):
        def preprocess(self, data):
            return super().preprocess(data)
        def postprocess(self, data):
            return [row * size for row, size in zip(data, self.sizes)]
    class Handler(Scale, Other): pass
    class Plain(Other, Scale): pass
    """

    (shared,) = of(source).shared
    assert (shared.name, shared.stored_line, shared.read_line) == ("self.sizes", 4, 11)
    assert of(source, "Plain").shared == ()
    assert of(source, "NotThere").shared == ()


@pytest.mark.parametrize(
    ("before", "store", "read"),
    [
        ("N = 0", "global N; N = len(data)", "return N"),
        ("", "global N; N = len(data)", "return N"),
        ("N = []", "N.append(1)", "return N"),
        ("N = {}", "N[data] = 1", "return helper(data)\n"),
        ("N = []", "note(1)", "return N"),
        ("class N: rows = []", "N.rows.append(1)", "return N.rows"),
        ("class N: rows = []", "N.rows = 1", "return N.rows"),
    ],
)
def test_names_of_the_module_are_state_too(before, store, read):
    """A global that one stage assigns or changes and another reads is shared."""
    helpers = "\ndef helper(row): return N[row]\ndef note(row): N.append(row)"
    (shared,) = found(preprocess=store, postprocess=read, before=before + helpers)

    assert shared[0] in ("N", "N.rows")
    assert shared[1:] == ("preprocess", "postprocess", "attribute")


def test_locals_and_imports_are_no_globals():
    """A local of the same name, and what a module imports, are nobody's state."""
    assert (
        found(
            before="import torch\nN = []\ndef f(): pass",
            preprocess="N = []\nN.append(1)\ntorch.backends.x = 1",
            inference="def f(): pass\nfor N in data: N.append(f)",
            postprocess="return N, torch, f",
        )
        == []
    )


def test_attributes_of_the_class_are_those_of_self():
    """A list of the class that stages change and read through self is shared."""
    assert found(
        preprocess="self.sizes.append(1)", postprocess="return self.sizes", more="sizes = []"
    ) == attribute("self.sizes")


@pytest.mark.parametrize(
    ("stages", "harmless"),
    [
        ({"preprocess": "self.calls += 1"}, {"self.calls"}),
        ({"preprocess": "self.tmp = data\nreturn self.tmp"}, {"self.tmp"}),
        ({"inference": "self.cache['a'] = 1\nreturn self.cache['a']"}, {"self.cache"}),
        ({"postprocess": "self.last = data"}, {"self.last"}),
        ({"preprocess": "del self.x"}, {"self.x"}),
        (
            {"preprocess": "self.calls.append(1)", "inference": "self.calls.append(2)"},
            {"self.calls"},
        ),
        ({"preprocess": "self.both = 1", "inference": "self.both = 2"}, {"self.both"}),
        ({"preprocess": "self.x = self.x or load()", "inference": "self.x"}, {"self.x"}),
        ({"preprocess": "self.helper.x = 1"}, {"self.helper.x"}),
        ({"preprocess": "self.helper.x.y = 1"}, {"self.helper.x"}),
        ({"preprocess": "it = self.helper; it.x = 1"}, {"self.helper.x"}),
        ({"preprocess": "self.helper.x += 1"}, {"self.helper", "self.helper.x"}),
        ({"preprocess": "self.x.data.copy_(1)"}, {"self.x", "self.x.data"}),
        ({"preprocess": "self.rows[0].n = 1"}, {"self.rows"}),
        ({"preprocess": "type(self).n = 1"}, {"Handler.n"}),
        ({"preprocess": "Handler.n += 1", "more": "n = 0"}, {"Handler.n", "self.n"}),
        ({"preprocess": "self.n += 1", "more": "n = 0"}, {"Handler.n", "self.n"}),
        ({"preprocess": "N.append(1)", "before": "N = []"}, {"N"}),
        ({"preprocess": "self.x = 1", "inference": "self.x"}, set()),
        ({"preprocess": "self.buf[:2] = 1\nreturn self.buf"}, set()),
    ],
)
def test_what_no_other_stage_reads_is_harmless(stages, harmless):
    """All that is stored and not shared has its names, as a watch of the handler gives them."""
    assert of(handler(**stages)).harmless == harmless


def test_an_attribute_of_a_base_has_the_name_of_the_base():
    """A class attribute is named by each class of the file that binds it."""
    source = handler("type(self).n.append(1)", before="class Base:\n    n = []")

    assert of(source.replace("(BaseHandler)", "(Base)")).harmless == {
        "Handler.n",
        "Base.n",
        "self.n",
    }


@pytest.mark.parametrize(
    ("body", "scratch"),
    [
        ("self.tmp = data\nreturn self.tmp", {"self.tmp"}),
        ("self.tmp = data\nself._use()", {"self.tmp"}),
        ("self._keep(data)\nreturn self.tmp", {"self.tmp"}),
        ("a, self.tmp = data\nreturn self.tmp", {"self.tmp"}),
        ("setattr(self, 'tmp', data)\nreturn getattr(self, 'tmp')", {"self.tmp"}),
        ("for self.tmp in data: self._use()", {"self.tmp"}),
        ("self.tmp = data", set()),
        ("return self.tmp", set()),
        ("self.count += 1\nreturn self.count", set()),
        ("self.count = self.count + 1\nreturn self.count", set()),
        ("self.cache[data] = 1\nreturn self.cache[data]", set()),
        ("self.calls.append(data)\nreturn self.calls", set()),
        ("self.helper.x = data\nreturn self.helper.x", set()),
        ("if self.tmp is None: self.tmp = load()\nreturn self.tmp", set()),
        ("self.tmp = self.tmp or load()\nreturn self.tmp", set()),
        ("tmp = data\nreturn tmp", set()),
    ],
)
@pytest.mark.parametrize("stage", ["preprocess", "inference", "postprocess"])
def test_scratch_is_what_a_stage_sets_and_reads(stage, body, scratch):
    """Only what gets a new value in each call, and is read there, is overwritten by other lanes."""
    helpers = """
    def initialize(self, context): self.cache = {}
    def _use(self): return self.tmp
    def _keep(self, x): self.tmp = x
    """

    state = of(handler(**{stage: body}, more=helpers))

    assert state.scratch[stage] == scratch
    assert not any(names for other, names in state.scratch.items() if other != stage)
    assert state.shared == ()


@pytest.mark.parametrize(
    "fill",
    [
        "if self.x is None: self.x = load()",
        "if None == self.y or not self.x: pass\nif not self.x: self.x = load()",
        "if self.x is None and data: self.x = load()",
        "if not hasattr(self, 'x'): self.x = load()",
        "if getattr(self, 'x', None) is None: setattr(self, 'x', load())",
        "if self.x is not None: pass\nelse: self.x = load()",
        "self.x = self.x or load()",
        "self.x = getattr(self, 'x', None) or load()",
        "if self.x is None:\n    with self.lock:\n        self.x = load()",
        "if self.x is None: self._load()",
        "self._get()",
        "if not self.initialized:\n    self.x = load()\n    self.initialized = True",
        "if not self.ready: self._ready()",
    ],
)
def test_what_is_filled_in_once_is_no_state(fill):
    """A store where the attribute was missing is initialisation: harmless."""
    state = of(
        handler(
            fill,
            "return self.x, self.ready, self.initialized",
            more="""
            def initialize(self, ctx): self.x = load()
            def _load(self): self.x = load()
            def _ready(self):
                self.x = load()
                self.ready = True
            def _get(self):
                if self.x is not None:
                    return self.x
                self.x = load()
                return self.x
            """,
        )
    )

    assert state.shared == ()
    assert "self.x" in state.harmless
    assert not any(state.scratch.values())


@pytest.mark.parametrize(
    "fill",
    [
        "if self.x is None: self.x = load()\nself.x = 1",
        "if data is None: self.x = load()",
        "if self.y is None: self.x = load()",
        "if self.x is None or data: self.x = load()",
        "if self.x is not None: self.x = load()",
        "if self.x is None: pass\nelse: self.x = load()",
        "if self.x is None: self.x = []\nself.x.append(data)",
        "if self.x.y is None: self.x = load()",
        "if self.x.get(data) is None: self.x[data] = load()",
        "self.x = data or load()",
        "self.x = load() if self.x is not None else self.x",
        "if not self.busy:\n    self.x = load()\n    self.busy = True\nself.busy = False",
        "if self.x == 3: self.x = load()",
    ],
)
def test_what_is_stored_for_other_reasons_is_state(fill):
    """A test of something else, or a store besides, makes no initialisation."""
    assert "self.x" in [it.name for it in of(handler(fill, "return self.x")).shared]


def test_what_another_stage_takes_back_is_state():
    """An attribute that is filled where it is missing and emptied later is state of the batch."""
    assert found(
        preprocess="if self.x is None: self.x = len(data)",
        postprocess="n = self.x\nself.x = None\nreturn n",
    ) == attribute("self.x")


@pytest.mark.parametrize(
    ("body", "escapes"),
    [
        ("setattr(self, data, 1)", True),
        ("getattr(self, data)", True),
        ("vars(self)['x'] = 1", True),
        ("self.__dict__.update(data)", True),
        ("self.__dict__['x'] = 1", True),
        ("elsewhere(self)", True),
        ("self.model(handler=self)", True),
        ("Worker(self).start()", True),
        ("rows = [self]", True),
        ("helper(*data, self)", True),
        ("me = self\nelsewhere(me)", True),
        ("[elsewhere(self) for row in data]", True),
        ("super().preprocess(data)", False),
        ("super(Handler, self).preprocess(data)", False),
        ("BaseHandler.preprocess(self, data)", False),
        ("isinstance(self, data), hasattr(self, 'x'), callable(self), len(self)", False),
        ("getattr(self, 'x')\nsetattr(self, 'y', 1)", False),
        ("type(self).__name__, id(self), repr(self), str(self), print(self), hash(self)", False),
        ("partial(helper, self)(data)", True),
        ("self.pool.submit(helper, self, data)", True),
        ("elsewhere(self.model, self.device)", False),
        ("helper(data, self)", False),
        ("helper(*data, it=self)", False),
        ("class Inner:\n    def run(self): elsewhere(self)", False),
    ],
)
def test_self_may_be_handed_out(body, escapes):
    """Whether something that cannot be read gets the handler itself is told."""
    assert of(handler(body, before="def helper(rows, it): it.x = rows")).escapes is escapes


def test_only_what_stages_do_escapes():
    """Before the first batch, initialize may hand out self as it likes."""
    assert not of(
        handler(more="def initialize(self, ctx): self.handle = MicroBatching(self)")
    ).escapes


@pytest.mark.parametrize(
    "write",
    [
        "self.buf[:n] = data\nreturn self.buf[:n]",
        "self.buf[0, :n] = data\nreturn self.buf",
        "for i, row in enumerate(data): self.buf[i] = row\nreturn self.buf",
        "np.copyto(self.buf, data)\nreturn self.buf",
        "return self.buf.copy_(data)",
        "self.buf[:n].copy_(data)\nreturn self.buf[:n]",
        "return torch.mul(data, 2, out=self.buf)",
        "torch.mul(data, 2, out=self.buf)\nreturn self.buf",
        "out = self.buf\nout[:n] = data\nreturn out",
        "self._fill(data)\nreturn self.buf",
        "BUF[:n] = data\nreturn BUF",
    ],
)
@pytest.mark.parametrize("stage", ["preprocess", "inference"])
def test_a_buffer_is_shared_by_the_calls_of_one_stage(write, stage):
    """What is written in place and may be returned is handed on, though one stage alone has it."""
    source = handler(
        **{stage: write},
        before="BUF = np.empty(9)",
        more="""
        def initialize(self, context): self.buf = torch.empty(9)
        def _fill(self, data): self.buf[: len(data)] = data
        """,
    )

    (shared,) = of(source).shared

    assert (shared.kind, shared.stored_in, shared.read_in) == ("buffer", stage, stage)
    assert str(shared) == (
        f"{shared.name}, written in place in {stage} (line {shared.stored_line}), "
        "which the next micro-batch would overwrite"
    )
    assert of(source).harmless == frozenset()


@pytest.mark.parametrize(
    "made",
    [
        "self.x = {}",
        "self.x = dict()",
        "self.x = {'a': 1}",
        "self.x: dict = {k: 1 for k in a}",
        "self.x = collections.OrderedDict()",
        "self.x = defaultdict(list)",
        "self.x = LRUCache(100)",
        "self.x = make()\nself.x.get('a')",
    ],
)
def test_a_dict_is_no_buffer(made):
    """A cache by key is its stage's own, however the key is made."""
    state = of(
        handler(
            "self.x[data] = 1\nreturn self.x[data]",
            more=f"def initialize(self, context):\n{textwrap.indent(made, '    ')}",
        )
    )

    assert state.shared == ()
    assert state.harmless == {"self.x"}


@pytest.mark.parametrize(
    "body",
    [
        "self.x['rows'] = data\nreturn self.x",
        "self.x[f'{data}'] = data\nreturn self.x",
        "self.x.append(data)\nreturn self.x",
        "self.x[:2] = data",
        "self.x[data] += 1",
        "self.x.add_(1)",
        "x = self.x.copy()\nx[:2] = data\nreturn x",
    ],
)
def test_not_every_change_is_of_a_buffer(body):
    """Keys that are text, lists that grow, and what is not given on are no buffers."""
    assert of(handler(body)).shared == ()


HANDLE = """
def handle(self, data, context):
    self.context = context
    self._ctx = context
    self.mine = time()
    self.sizes = [len(row) for row in data]
    self.note(context)
    rows = self.preprocess(data)
    return self.postprocess(self.inference(rows)), self.mine
def note(self, context):
    self.latest = context
"""


def test_what_handle_stores_and_a_stage_reads_is_shared():
    """A handle of the user's is as a stage; its calls of stages are not its own doing."""
    state = of(
        handler(
            "self.scratch = self.context, self._ctx, self.latest",
            "return self.sizes",
            "return self.scratch2",
            HANDLE,
        )
    )

    assert [(it.name, it.stored_in, it.read_in) for it in state.shared] == [
        ("self.sizes", "handle", "inference")
    ]
    assert "self.scratch" in state.harmless


@pytest.mark.parametrize(
    ("store", "is_shared"),
    [
        ("self.x = 0", False),
        ("self.x = None", False),
        ("self.x = len(data)", False),
        ("self.x = 2 * len(data) + 1 > 8", False),
        ("n = len(data)\nself.x = -n", False),
        ("self.x, self.y = len(data), data", False),
        ("self.x = time.time()", False),
        ("self.x = time.perf_counter() - self.x", False),
        ("self.x = monotonic()", False),
        ("self.x = datetime.datetime.now()", False),
        ("self.x += 1", False),
        ("self.x += len(data)", False),
        ("self.x = self.x + len(data)", False),
        ("self.stats['rows'] = self.x = len(data)", False),
        ("self._time(data)", False),
        ("self.x = data", True),
        ("self.x = [len(row) for row in data]", True),
        ("self.x += data", True),
        ("self.x = data[0] + 1", True),
        ("n = len(data)\nn = data\nself.x = n", True),
        ("data = data + 1\nself.x = data", True),
        ("self.x = make(len(data))", True),
        ("self.x = []", True),
        ("self.x[0] = 1", True),
        ("self.x.append(1)", True),
        ("self._keep(data)", True),
    ],
)
def test_figures_that_handle_keeps_are_no_state(store, is_shared):
    """A clock, a count or a constant of the batch is the same for all its rows."""
    body = textwrap.indent(store, "    ")
    state = of(
        handler(
            "return self.x",
            more=f"""
def handle(self, data, context):
{body}
    return self.preprocess(data)
def _keep(self, rows): self.x = rows
def _time(self, rows): self.x = time.time()
""",
        )
    )

    assert [it.name for it in state.shared] == ["self.x"] * is_shared
    assert ("self.x" in state.harmless) is not is_shared


def test_a_figure_of_a_stage_is_state():
    """What a stage counts is of its micro-batch, and not of another's."""
    assert found(preprocess="self.x = len(data)", inference="return self.x") == attribute(
        "self.x", "preprocess", "inference"
    )


@pytest.mark.parametrize(
    ("file", "name", "shared"),
    [
        ("echo.py", "Echo", []),
        ("kinds/state_own_handle.py", "RankingHandler", [("self.users", "handle")]),
    ],
)
def test_handlers_with_a_handle_of_their_own(file, name, shared):
    """Counts of batches and rows are nothing; the users of the batch are."""
    path = Path(__file__).parents[2] / "harness" / "handlers" / file

    state = of(path.read_text(encoding="utf-8"), name)

    assert [(it.name, it.stored_in) for it in state.shared] == shared


def test_what_handle_reads_of_a_stage_is_shared():
    """A handle that looks for what a stage has stored would see the last micro-batch's."""
    assert found(
        preprocess="self.sizes = data", more="def handle(self, data, context): return self.sizes"
    ) == attribute("self.sizes", "preprocess", "handle")


def test_a_context_is_no_state_but_what_is_put_on_it_is():
    """Contexts are kept per micro-batch elsewhere; names on them that stages share are found."""
    assert found(preprocess="self.context.n = 1", postprocess="return self.context.metrics") == []
    assert found(preprocess="self.context.n = 1", postprocess="return self.context.n") == (
        attribute("self.context.n")
    )
    assert found(preprocess="ctx = self.context\nctx.n = 1", postprocess="return self.context.n")
    assert found(preprocess="self.context = make(data)", postprocess="return self.context") == (
        attribute("self.context")
    )


def test_findings_come_by_line_one_for_each_name():
    """The first line of each name counts."""
    state = of(handler("self.b = 1\nself.a = 1\nself.b = 2", "return self.a, self.b", "self.a"))

    assert [(it.name, it.read_in) for it in state.shared] == [
        ("self.b", "inference"),
        ("self.a", "inference"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "class Handler(Handler): pass",
        "class Handler(A):\n def preprocess(self): return self.x\nclass A(Handler): pass",
        "class Handler:\n preprocess = inference = None",
        "def d(f):\n @d\n def w(s): f(s)\nclass Handler:\n @d\n def preprocess(s, d): pass",
        "class Handler:\n def preprocess(): self.x = 1",
        "class Handler:\n def preprocess(*all): all[0].x = 1",
        "class Handler:\n async def preprocess(self, data): self.x = [r async for r in data]",
        "class Handler:\n def preprocess(self, data): return self.preprocess(self.inference(data))",
        "class Handler:\n def preprocess(self, data): getattr(); setattr(self); type(); super()",
        "class Handler:\n def preprocess(self, data): return " + "+".join(["self.x"] * 800),
    ],
)
def test_a_source_that_is_odd_is_no_error(source):
    """Whatever stands there, reading ends without an error."""
    assert of(source).shared == ()


def test_a_class_body_may_name_its_stages():
    """A stage that is another method, or a function of the module, by a second name is read."""
    source = """
    def to_json(self, data): return self.x
    class Handler:
        def _pre(self, data): self.x = data
        preprocess = _pre
        postprocess = to_json
    """

    assert [it.name for it in of(source).shared] == ["self.x"]


# Classes that are there.


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


LENGTHS = []


def note_lengths(rows):
    LENGTHS.extend(map(len, rows))


class Timed(BaseHandler):
    calls = 0

    @timed
    def preprocess(self, data):
        self.sizes = [len(row) for row in data]
        return data

    @decorated
    def inference(self, data):
        type(self).calls += 1
        note_lengths(data)
        return super().inference(data)

    @decorated
    def postprocess(self, data):
        return [data, self.sizes, self.calls, LENGTHS]


class Wrapped(MicroBatchMixin, Timed):
    pass


def test_a_class_is_read_under_its_decorators():
    """Classes that are loaded are found in their files, under decorators, behind the mixin."""
    lines, first = inspect.getsourcelines(Timed)
    stored = first + next(at for at, line in enumerate(lines) if "self.sizes =" in line)
    read = first + next(at for at, line in enumerate(lines) if "return [data" in line)

    state = state_of_class(Timed)

    assert [it.name for it in state.shared] == ["LENGTHS", "self.sizes", "Timed.calls"]
    assert state.shared[1] == Shared("self.sizes", "preprocess", stored, "postprocess", read)
    assert not state.escapes
    assert [it.stored_line for it in state_of_class(Wrapped).shared] == [
        it.stored_line for it in state.shared
    ]


def test_what_is_too_deep_to_read_may_do_anything():
    """Where reading had to stop, the state is doubtful."""
    assert of("class Handler:\n def inference(self, x): " + "+".join(["self.x"] * 800)).escapes


def test_classes_without_source_are_passed_over():
    """A class made in memory is passed over; those behind it are read."""
    space = {}
    exec("class Made:\n    def inference(self, data): self.sizes = data", space)

    assert state_of_class(space["Made"]).shared == ()
    both = type("Both", (space["Made"], Timed), {})
    assert "self.sizes" in [it.name for it in state_of_class(both).shared]


def test_a_class_made_in_a_function_is_read():
    """A class is found by where it is made, not by its bare name."""

    class Timed:
        def preprocess(self, data):
            self.rows = data

        def postprocess(self, data):
            return self.rows

    assert [it.name for it in state_of_class(Timed).shared] == ["self.rows"]


TORCHSERVE = [
    ("base_handler",),
    ("base_handler", "vision_handler"),
    ("base_handler", "vision_handler", "image_classifier"),
    ("base_handler", "vision_handler", "image_segmenter"),
    ("base_handler", "vision_handler", "object_detector"),
    ("base_handler", "text_handler"),
    ("base_handler", "text_handler", "text_classifier"),
    ("base_handler", "densenet_handler"),
]


@pytest.mark.parametrize("files", TORCHSERVE, ids=lambda files: files[-1])
def test_the_handlers_of_torchserve_share_nothing(files):
    """TorchServe's own handlers can be cut: nothing is found in their files, bases and all."""
    folder = Path(ts.torch_handler.__file__).parent
    sources = [(folder / f"{file}.py").read_text(encoding="utf-8") for file in files]
    name = [node.name for node in ast.parse(sources[-1]).body if isinstance(node, ast.ClassDef)][-1]

    for source in (sources[-1], "\n".join(sources)):
        state = of(source, name)

        assert state.shared == ()
        assert not any(state.scratch.values())
        assert not state.escapes


def test_the_base_handler_shares_nothing_when_loaded():
    """Neither does the class that most handlers derive from, when it is there."""
    state = state_of_class(BaseHandler)

    assert (state.shared, state.escapes) == ((), False)
    assert not any(state.scratch.values())
