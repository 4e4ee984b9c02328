"""Which stages may run in several threads at once, as their source and objects show."""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import re
import sys
import textwrap

import numpy as np
import pytest
import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler.torchserve.reading.thread_safety import obstacles_in_file, obstacles_of

HEAD = """
import functools
import io
import random
import numpy as np
import torch
from PIL import Image, ImageFile
from torch.nn import functional as F
import unknown_package
from . import beside
from unknown_package import decode, traced

TABLE = {"a": 1}
OPENED = unknown_package.Reader()

def helper(rows, table):
    return [table[row] for row in rows]

def counting(rows):
    global COUNT
    COUNT = len(rows)
    return rows

class Handler:
"""


class Unknown:
    """A tokenizer, perhaps."""

    def __call__(self, rows):
        return rows

    encode = __call__


def source_of(body, more=""):
    method = "def preprocess(self, data):\n" + textwrap.indent(
        textwrap.dedent(body).strip(), "    "
    )
    parts = [textwrap.dedent(more).strip(), method]
    return HEAD + textwrap.indent("\n".join(filter(None, parts)), "    ")


@pytest.fixture
def obstacle(tmp_path, monkeypatch):
    """What stands in the way of preprocess with this body and these attributes."""
    numbers = itertools.count()
    package = type(sys)("unknown_package")
    package.Reader = Unknown
    package.decode = package.traced = lambda rows: rows
    monkeypatch.setitem(sys.modules, "unknown_package", package)

    def obstacle(body, more="", **attributes):
        name = f"thread_safety_handler_{next(numbers)}"
        file = tmp_path / f"{name}.py"
        source = source_of(body, more).replace("from . import beside\n", "beside = None\n")
        file.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        handler = module.Handler()
        vars(handler).update(attributes)
        return obstacles_of(handler)["preprocess"]

    return obstacle


@pytest.mark.parametrize(
    "body",
    [
        "return torch.stack([self.scale(np.asarray(Image.open(io.BytesIO(row)))) for row in data])",
        "return [self._one(row) for row in data]",
        "return list(map(self._one, data))",
        "return helper(data, self.table)",
        "return helper(data, TABLE)",
        "size = self.size\nreturn [row.resize(size) for row in data]",
        "def inner(row):\n    return row + self.mean\nreturn [inner(row) for row in data]",
        "rows = []\nfor row in data:\n    rows.append(F.relu(row))\nreturn rows",
        "return [self.network(row) for row in data]",
        "return [self.pattern.sub('', row) for row in data]",
        "with torch.no_grad():\n    return torch.as_tensor(data, device=self.device)",
        "return self.context.get_request_header(0, 'x')",
        "from PIL import ImageOps\nreturn [ImageOps.exif_transpose(row) for row in data]",
        "return [self.steps[0](row) for row in data]",
    ],
)
def test_reading_what_is_shared_is_safe(obstacle, body):
    """Rows belong to the call; what lies on self is read, or is called and of a known class."""
    found = obstacle(
        body,
        more="def _one(self, row):\n    return row",
        scale=torch.nn.Sequential(torch.nn.ReLU()),
        network=torch.nn.Linear(2, 2),
        table={"a": 1},
        size=(2, 2),
        mean=np.zeros(2),
        pattern=re.compile("x"),
        device=torch.device("cpu"),
        steps=[torch.relu],
    )

    assert found == ""


class _OwnNetwork(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("self.rows = data\nreturn data", "it stores self.rows (line"),
        ("self.count += len(data)\nreturn data", "it stores self.count (line"),
        ("if self.cache is None:\n    self.cache = {}\nreturn data", "it stores self.cache"),
        ("self.seen.append(data)\nreturn data", "it stores self.seen"),
        ("self.buffer[: len(data)] = data\nreturn data", "it stores self.buffer"),
        ("TABLE['b'] = 2\nreturn data", "it stores TABLE"),
        ("return counting(data)", "it stores COUNT"),
        ("return self.unknown(data)", "it uses self.unknown, which may not be safe in several"),
        ("return self.unknown.encode(data)", "it uses self.unknown"),
        ("return list(map(self.unknown, data))", "it uses self.unknown"),
        ("return list(map(self.unknown.encode, data))", "it uses self.unknown"),
        ("f = self.unknown\nreturn f(data)", "it uses self.unknown"),
        ("f = len\nf = self.unknown\nreturn f(data)", "it uses self.unknown"),
        ("f = self.unknown if data else len\nreturn f(data)", "it uses self.unknown"),
        ("for f in self.many:\n    data = f(data)\nreturn data", "it uses self.many"),
        ("return [f(row) for f, row in zip(self.many, data)]", "it uses self.many"),
        ("return self.many[0](data)", "it uses self.many"),
        ("return self.by_name['a'](data)", "it uses self.by_name"),
        ("return self.own_network(data)", "it uses self.own_network"),
        ("return self.bound(data)", "it uses self.bound"),
        ("return self.partial(data)", "it uses self.partial"),
        ("return functools.partial(self.unknown, 1)(data)", "it uses self.unknown"),
        ("return OPENED(data)", "it uses OPENED"),
        ("return next(self.numbers)", "it calls next(self.numbers)"),
        ("return decode(data)", "it calls decode, which cannot be read (line"),
        ("return unknown_package.decode(data)", "it calls unknown_package.decode"),
        ("import unknown_package as u\nreturn u.decode(data)", "it calls u.decode"),
        ("return unknown_package.table['a'](data)", "it calls unknown_package.table['a']"),
        ("random.shuffle(data)\nreturn data", "it calls random.shuffle"),
        ("torch.set_num_threads(1)\nreturn data", "it calls torch.set_num_threads"),
        ("np.random.seed(1)\nreturn data", "it calls np.random.seed"),
        ("ImageFile.LOAD_TRUNCATED_IMAGES = True\nreturn data", "it sets ImageFile.LOAD_TRUNC"),
        ("return eval('data')", "it calls eval"),
        ("return self._helper(data)", "it stores self.last (line"),
        ("return unknown_package.decode(self)", "it hands self to something that cannot be read"),
    ],
)
def test_what_may_be_unsafe_is_named(obstacle, body, says):
    """A store that outlives the call, or a call of what is not known to be safe, with its line."""
    network = torch.nn.Sequential(_OwnNetwork())
    unknown = Unknown()

    found = obstacle(
        body,
        more="def _helper(self, data):\n    self.last = data\n    return data",
        rows=None,
        count=0,
        cache=None,
        seen=[],
        buffer=np.zeros(4),
        unknown=unknown,
        many=[unknown],
        by_name={"a": unknown},
        own_network=network,
        bound=unknown.encode,
        partial=functools.partial(unknown),
        numbers=itertools.count(),
    )

    assert found.startswith(says)


def test_a_decorator_that_cannot_be_read_stands_in_the_way():
    """What is around the method runs in each thread, too."""
    source = source_of("return data").replace(
        "    def preprocess", "    @traced\n    def preprocess"
    )

    found = obstacles_in_file(ast.parse(source), "Handler")["preprocess"]

    assert found.startswith("traced, which is around it, cannot be read")


def test_a_method_of_the_object_alone_stands_in_the_way():
    """A stage that was set on the object is not the one of its class."""
    handler = BaseHandler()
    handler.preprocess = lambda data: data

    assert "it is an attribute of the object" == obstacles_of(handler)["preprocess"]


def test_a_class_without_source_stands_in_the_way():
    """Nothing is known of a stage whose source is not there."""
    kind = type("Bare", (), {"preprocess": lambda self, data: data})

    assert "its source cannot be read" == obstacles_of(kind())["preprocess"]


def test_in_a_file_objects_are_taken_to_be_safe():
    """What initialize puts on self is known only when it has run."""
    source = source_of("return self.anything(data)")

    assert "" == obstacles_in_file(ast.parse(source), "Handler")["preprocess"]
    unread = source_of("return beside.decode(data)")
    assert obstacles_in_file(ast.parse(unread), "Handler")["preprocess"].startswith(
        "it calls beside.decode, which cannot be read"
    )


def test_base_handler_is_safe():
    """BaseHandler's own stages are safe."""
    safe = {"preprocess": "", "postprocess": ""}

    found = obstacles_of(BaseHandler())

    assert safe == {stage: found[stage] for stage in safe}


RELATIVE = """
from ..utils.util import map_class_to_label

class Handler:
    def preprocess(self, data):
        return map_class_to_label(data)
"""


@pytest.mark.parametrize(
    ("package", "says"),
    [("ts.torch_handler", ""), ("their.package", "it calls map_class_to_label, which cannot")],
)
def test_a_relative_import_is_of_the_modules_own_package(tmp_path, monkeypatch, package, says):
    """TorchServe's handlers import its helpers relatively; a user's package is not known."""
    name = f"{package}.thread_safety_relative"
    module = type(sys)(name)
    module.__file__ = str(tmp_path / "handler.py")
    (tmp_path / "handler.py").write_text(RELATIVE, encoding="utf-8")
    monkeypatch.setitem(sys.modules, name, module)
    source = RELATIVE.replace("from ..utils.util import map_class_to_label", "")
    exec(compile("\n" + source.lstrip("\n"), module.__file__, "exec"), vars(module))

    found = obstacles_of(module.Handler())["preprocess"]

    assert found.startswith(says)
    assert bool(found) == bool(says)
