"""Peers of the inference benchmark get the same model and the same pairs."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZE, byte_tokenizer, save

from prorank.bench import worker
from prorank.bench.alone import measured_alone
from prorank.bench.gguf_file import write_gguf
from prorank.bench.inference import correlations, difference, ratios
from prorank.bench.worker import flashrank, llama_cpp
from prorank.util.errors import ProrankError

GROUPED = SIZE | {"num_key_value_heads": 2}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_gguf_file_holds_the_model_in_eight_bits(kind, tied, tmp_path):
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    options = {"vocab_size": len(tokenizer), "tie_word_embeddings": tied, "rope_theta": 5_000.0, **GROUPED}
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # random models say next to nothing otherwise
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    write_gguf(save(model, tokenizer, tmp_path / "model"), tmp_path / "model.gguf")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.randint(0, len(tokenizer), (2, 24))
    with torch.no_grad():
        expected, found = model(ids).logits, again(ids).logits
    assert float((expected - found).abs().mean()) < 0.05 * float(expected.std())
    assert again.config.rope_parameters["rope_theta"] == 5_000.0


def test_another_architecture_is_refused(bert_folder, tmp_path):
    with pytest.raises(ProrankError, match="model type 'bert'"):
        write_gguf(bert_folder, tmp_path / "model.gguf")


class Llama:
    """Says of all tokens so far how many are even, and how many odd; counts those that it is asked to compute."""

    computed = 0

    def __init__(self, *_, **options):
        self.n_tokens, self.tokens, self.ctx = 0, [], self
        self.numbers = (ctypes.c_float * 2)()

    def n_vocab(self):
        return 2

    def eval(self, ids):
        assert ids
        self.tokens = [*self.tokens[: self.n_tokens], *ids]
        self.n_tokens = len(self.tokens)
        Llama.computed += len(ids)
        for answer in (0, 1):
            self.numbers[answer] = sum(token % 2 == answer for token in self.tokens)


def test_llama_cpp_computes_what_two_pairs_share_once(monkeypatch):
    last = lambda context, _: ctypes.cast(context.numbers, ctypes.POINTER(ctypes.c_float))  # noqa: E731
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama, llama_get_logits_ith=last))
    sequences = [[1, 3, 5, 7], [1, 3, 5, 8], [1, 3], [1, 3], [2, 2, 2, 2, 2]]
    pairs = [("q", str(i)) for i in range(len(sequences))]
    spec = {"folder": "", "threads": 1, "pairs": pairs, "sequences": sequences, "answers": [0, 1]}
    odd = [sum(1 if token % 2 else -1 for token in ids) for ids in sequences]
    score = llama_cpp(spec)
    assert score(pairs) == odd
    assert Llama.computed == 4 + 1 + 1 + 1 + 5
    assert score(pairs[::-1]) == odd[::-1]


def test_flashrank_answers_in_the_order_of_the_pairs(monkeypatch):
    class Ranker:
        def __init__(self, **_):
            pass

        def rerank(self, request):
            for passage in request.passages:
                passage["score"] = 1 / (1 + np.exp(-len(passage["text"]) - len(request.query)))
            return sorted(request.passages, key=lambda passage: -passage["score"])

    monkeypatch.setitem(sys.modules, "flashrank", SimpleNamespace(Ranker=Ranker, RerankRequest=SimpleNamespace))
    pairs = [("q", "a"), ("query", "abc"), ("q", "abcd"), ("query", "")]
    assert flashrank({"folder": "a/b"})(pairs) == pytest.approx([2, 8, 5, 5])


def test_files_beside_the_worker_stand_in_for_no_library(tmp_path, monkeypatch):
    (tmp_path / "flashrank.py").write_text(
        "import cProfile, warmup\n"
        "class RerankRequest:\n"
        "    def __init__(self, query, passages): self.passages = passages\n"
        "class Ranker:\n"
        "    def __init__(self, **_): pass\n"
        "    def rerank(self, request): return [passage | {'score': 0.5} for passage in request.passages]\n"
    )
    (tmp_path / "warmup.py").write_text("assert 'bench' not in __file__")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = {
        "contender": "flashrank",
        "folder": "a/b",
        "device": "cpu",
        "repeats": 1,
        "warmup": 1,
        "pairs": [("q", "d")],
    }
    found = measured_alone([sys.executable, worker.__file__], spec, "a worker")
    assert found["scores"] == [0.0] and len(found["seconds"]) == 1


def test_types_are_compared_with_their_like():
    def row(name, dtype, *scores):
        return {"name": name, "dtype": dtype, "scores": scores, "seconds": 2.0}

    rows = [
        row("prorank", "float32", 1, 2, 4),
        row("st", "float32", 1, 2.5, 4),
        row("llama.cpp (Q8_0)", "q8_0", 3, 5, 9),
    ]
    assert difference(rows) == 0.5
    assert correlations(rows) == {"llama.cpp (Q8_0)": pytest.approx(1.0)}
    assert ratios([*rows[:1], rows[2] | {"seconds": 3.0}]) == {"llama.cpp": 1.5}
