"""Tiny models, tokenizers and collections, made in place; nothing is downloaded."""

import gc
import os
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from threads, and one thread is one order of sums
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # likewise

import hypothesis
import pytest
import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from prorank.bench.toy import LEARNED, WORDS, pretrain, toy_recipe, write_collection
from prorank.cli import main as cli

# No time limits inside tests; in CI the same examples every time.
hypothesis.settings.register_profile("prorank", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("prorank")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_finish():
    """What is imported by now is never garbage: collections that a run asks for need not walk it each time."""
    gc.collect()
    gc.freeze()


@contextmanager
def sketched():
    """Plots are composed as ever; only the file is no picture, which takes most of a tiny run's time."""

    def touch(figure, path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prorank.evaluation.plots.save_figure", touch)
        yield


@pytest.fixture(autouse=True)
def _sketches(request):
    """Tests marked `pictures` have plots drawn."""
    if "pictures" in request.keywords:
        yield
    else:
        with sketched():
            yield


@pytest.fixture(autouse=True)
def _one_thread_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["PRORANK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def byte_tokenizer(chat_template: str | None = CHATML) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like Qwen's, trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = "query: document: instruction: You are a search relevance expert. Relevance:\n assistant user system yes no"
    tokenizer.train_from_iterator([text, " ".join(WORDS)] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
    )


def bert_tokenizer(words: list[str] = WORDS) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer with BERT's special tokens and frame."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    extra = "query document instruction relevance answer : . 0 1 yes no the a of".split()
    vocabulary = {word: i for i, word in enumerate([*special, *extra, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ONE_LAYER = SIZE | {"num_hidden_layers": 1}  # which graphs are traced from in half of the time


def save(model, tokenizer, folder):
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_qwen(folder, size):
    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **size)
    return save(transformers.Qwen2ForCausalLM(config), tokenizer, folder)


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory):
    """A random Qwen2 with 2 layers and a chat tokenizer."""
    return random_qwen(tmp_path_factory.mktemp("qwen"), SIZE)


@pytest.fixture(scope="session")
def one_layer_folder(tmp_path_factory):
    """A random Qwen2 with one layer."""
    return random_qwen(tmp_path_factory.mktemp("one-layer"), ONE_LAYER)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A random BERT with 2 layers and its masked-language-model head."""
    torch.manual_seed(1)
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SIZE)
    return save(transformers.BertForMaskedLM(config), tokenizer, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A random BERT without a language-model head, as sentence encoders are."""
    torch.manual_seed(1)
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SIZE)
    return save(transformers.BertModel(config), tokenizer, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def word_collection(tmp_path_factory):
    """Sixty documents of three words; each query is one document's first two words."""
    generator = torch.Generator().manual_seed(3)
    documents, queries, qrels = {}, {}, {"train": {}, "dev": {}, "test": {}}
    for i in range(60):
        words = [WORDS[j] for j in torch.randperm(len(WORDS), generator=generator)[:3].tolist()]
        documents[f"d{i}"] = " ".join(words)
        if i < 40:
            text = " ".join(words[:2])
            queries[f"q{i}"] = text if text not in queries.values() else " ".join(words[1::-1])  # no query twice
            qrels["train" if i < 24 else "dev" if i < 30 else "test"][f"q{i}"] = {f"d{i}": 1}
    return write_collection(tmp_path_factory.mktemp("words"), documents, queries, qrels)


def made_once(tmp_path_factory, name, make):
    """A folder that the first of the test processes fills by `make(folder)` and all may read; none may change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(unfinished := folder.with_name(f"{name}-unfinished"))
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The toy language's model after half of its training, which suffices; `toy_recipe` finds it here."""

    def make(folder):
        assert pretrain(folder / "model", steps=300) < LEARNED
        toy_recipe(folder)

    return made_once(tmp_path_factory, "toy", make)


@pytest.fixture(scope="session")
def finished(bert_folder, word_collection, tmp_path_factory):
    """A run left alone, of `tiny_runs.tiny` as it stands: its folder and its results."""
    from tiny_runs import tiny

    from prorank.pipeline.run import run_recipe

    folder = tmp_path_factory.mktemp("runs") / "alone"
    results = run_recipe(tiny(bert_folder, word_collection), folder)
    return folder, results


@pytest.fixture(scope="session")
def exported(bert_folder, tmp_path_factory):
    """One folder, not to be changed: a masked model as `checkpoint`, and its exports, each under its target's name."""
    from prorank import Reranker
    from prorank.export.export import export

    def make(folder):
        reranker = Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32", device="cpu")
        reranker.save_pretrained(folder / "checkpoint")
        for target in ("int8-rowwise", "onnx", "openvino"):
            export(reranker, target, folder / target)

    return made_once(tmp_path_factory, "exported", make)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command in this process: call(*arguments) -> (code, out, err)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prorank", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
