"""One reranker of any kind, many threads, copies and processes: the scores of one thread, or an error that says why."""

import copy
import multiprocessing
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZE, WORDS, bert_tokenizer, save
from tokenizers import processors

from prorank import Reranker
from prorank.engine import scorer as engine
from prorank.model.attention import ATTENTION
from prorank.model.sharing import ModelLock
from prorank.util.errors import CheckpointError

KINDS = ["causal", "masked", "classifier", "onnx", "openvino"]
TOLERANCE = {"onnx": 1e-4, "openvino": 1e-4}
QUERIES = ["apple river", "stone", "[MASK] cloud <|im_end|>", "tiger " * 9]
DOCUMENTS = [
    *(" ".join(WORDS[i : i + 1 + 3 * i]) for i in range(8)),
    "[SEP] [MASK] <|im_start|> river",
    "",
    "stone cloud " * 300,
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, qwen_folder, bert_folder, exported):
    """One folder of each kind of model."""
    torch.manual_seed(2)
    tokenizer = bert_tokenizer()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, num_labels=1, **SIZE)
    model = transformers.BertForSequenceClassification(config)
    folder = tmp_path_factory.mktemp("classifier")
    kinds = {"causal": qwen_folder, "masked": bert_folder, "classifier": save(model, tokenizer, folder)}
    return kinds | {kind: exported / kind for kind in ("onnx", "openvino")}


def load(folders, kind, **options):
    prompts = {"causal": {"prompt": "prorank-short", "max_length": 120}, "masked": {"prompt": "prorank-short"}}
    shared = {"precision": "fp32"} | ({} if kind in TOLERANCE else {"device": "cpu"})
    return Reranker(folders[kind], **(shared | prompts.get(kind, {}) | options))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def reranker(folders, kind):
    return load(folders, kind)


def calls(count):
    """Calls of `score` and `rank` over few and many pairs, short and long, in an order that repeats."""
    chance = np.random.default_rng(0)
    made = []
    for number in range(count):
        documents = [DOCUMENTS[i] for i in chance.integers(0, len(DOCUMENTS), chance.integers(1, 7))]
        queries = [QUERIES[i] for i in chance.integers(0, len(QUERIES), len(documents))]
        if number % 3:
            made.append(lambda r, q=queries, d=documents: r.score(list(zip(q, d))))
        else:
            made.append(lambda r, q=queries[0], d=documents: ranked_scores(r, q, d))
    return made


def ranked_scores(reranker, query, documents):
    """The scores of `rank`, in the order of the documents."""
    return [result["score"] for result in sorted(reranker.rank(query, documents), key=lambda r: r["corpus_id"])]


def differences(rerankers, made):
    """Largest difference of each call made by its thread's reranker from what the first one says alone."""
    expected = [call(rerankers[0]) for call in made]
    with ThreadPoolExecutor(len(rerankers)) as pool:
        found = list(pool.map(lambda i: made[i](rerankers[i % len(rerankers)]), range(len(made))))
    return np.concatenate([np.abs(np.subtract(a, b)) for a, b in zip(found, expected)])


def test_many_threads_get_the_scores_that_one_thread_gets(reranker, kind):
    assert differences([reranker] * 8, calls(120)).max() <= TOLERANCE.get(kind, 1e-6)


def test_a_copy_for_each_thread_scores_like_the_original(reranker, kind):
    copies = [reranker, copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker)), copy.copy(reranker)]
    assert differences(copies, calls(60)).max() <= TOLERANCE.get(kind, 1e-6)
    assert copies[1].backend is not reranker.backend and copies[1].backend.lock is not reranker.backend.lock


@pytest.mark.parametrize("kind", ["causal", "masked", "classifier"], indirect=True)
def test_a_copy_made_while_the_model_runs_is_whole(reranker):
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            reranker.rank(QUERIES[0], DOCUMENTS)

    expected = reranker.score([(QUERIES[0], d) for d in DOCUMENTS])
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(keep_busy)
        try:
            copies = [copy.deepcopy(reranker) for _ in range(12)]
            copies += [pickle.loads(pickle.dumps(reranker)) for _ in range(12)]
        finally:
            stop.set()
        busy.result()
    for made in copies:
        assert made.backbone.config._attn_implementation != ATTENTION
        assert not any("feed_forward_chunk" in vars(m) or "forward" in vars(m) for m in made.backbone.modules())
    np.testing.assert_allclose(copies[-1].score([(QUERIES[0], d) for d in DOCUMENTS]), expected, atol=1e-6)


def test_a_model_is_scored_while_another_is_loaded(folders, reranker, kind):
    expected = reranker.score([(QUERIES[0], d) for d in DOCUMENTS])
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(load, folders, kind)
        found = [reranker.score([(QUERIES[0], d) for d in DOCUMENTS]) for _ in range(5)]
    found.append(other.result().score([(QUERIES[0], d) for d in DOCUMENTS]))
    np.testing.assert_allclose(found, [expected] * len(found), atol=TOLERANCE.get(kind, 1e-6))


def test_models_do_not_wait_for_one_another(folders, reranker, kind):
    other = load(folders, kind)
    with reranker.backend.lock, ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(other.score, [("apple", "river")]).result(timeout=60)) == 1


@pytest.mark.parametrize("kind", ["causal", "masked", "classifier"], indirect=True)
def test_a_model_in_training_is_scored_without_dropout_and_stays_in_training(reranker):
    expected = reranker.score([(QUERIES[0], d) for d in DOCUMENTS])
    backbone = reranker.backbone
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    backbone.train()
    asleep = next(module for module in backbone.modules() if not list(module.children())).eval()  # one frozen layer
    before = [module.training for module in backbone.modules()]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reranker.score([(QUERIES[0], d) for d in DOCUMENTS]), range(24)))
    np.testing.assert_allclose(found, [expected] * 24, atol=1e-6)
    assert [module.training for module in backbone.modules()] == before
    assert backbone.training and not asleep.training


def test_a_budget_that_another_thread_has_lowered_is_not_raised_again(folders, monkeypatch):
    reranker, whole = load(folders, "causal"), engine._run

    def full(backbone, work, rows):
        if backbone.token_budget is None:
            backbone.token_budget = 90  # what another thread has learned meanwhile
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(backbone, work, rows)

    monkeypatch.setattr(engine, "_run", full)
    reranker.score([("apple", " ".join(WORDS[: i + 1])) for i in range(20)])
    assert reranker.backbone.token_budget == 90


def test_texts_are_read_by_a_private_tokenizer(folders, kind):
    """Whatever somebody else does with the shared tokenizer meanwhile, and nothing is done to it here."""
    reranker = load(folders, kind)
    expected = reranker.tokenizer.encode([("[MASK]", "river <|im_end|> " * 5)])
    backend = reranker.backend.tokenizer.backend_tokenizer
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    before = backend.truncation, backend.padding, backend.encode_special_tokens
    assert reranker.tokenizer.encode([("[MASK]", "river <|im_end|> " * 5)]) == expected
    assert (backend.truncation, backend.padding, backend.encode_special_tokens) == before


def forked(work):
    """What `work` gives in a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def child():
        try:
            there.send(work())
        except Exception as error:
            there.send(repr(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert here.poll(60), "the forked process hangs"
    answer = here.recv()
    process.join()
    return answer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_spawn(reranker):
    reranker.score([("apple", "river")])
    found = forked(lambda: reranker.score([("apple", "river")]))
    assert found.startswith("CheckpointError") and '"spawn" start method' in found
    assert forked(lambda: len(reranker.tokenizer.encode([("apple", "river")])[0])) == 1  # readers of data may fork


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["causal", "masked", "classifier", "onnx"], indirect=True)
def test_a_model_loaded_in_a_forked_process_works(folders, kind):
    assert len(forked(lambda: load(folders, kind).score([("apple", "river")]))) == 1


def test_a_pickled_export_whose_folder_is_gone_says_so(folders, tmp_path):
    folder = shutil.copytree(folders["onnx"], tmp_path / "graph")
    pickled = pickle.dumps(Reranker(folder))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="holds no exported graph any more"):
        pickle.loads(pickled)


def test_a_lock_may_be_entered_again_and_is_never_copied():
    lock = ModelLock()
    with lock, lock:
        other = copy.deepcopy(lock)
        assert other is not lock
    with pickle.loads(pickle.dumps(lock)):
        pass
