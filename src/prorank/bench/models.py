"""Models of published shapes with random weights, and pairs of a real collection, for benchmarks.

Speed does not depend on what weights hold. A byte-level tokenizer is trained on the collection's own text; the
vocabulary matrix keeps its published size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from prorank import Reranker
from prorank.data.collection import Collection
from prorank.evaluation.rerank import sample_queries
from prorank.first_stage.bm25 import BM25Index
from prorank.util.files import write_json

QWEN25_05B = {  # Qwen/Qwen2.5-0.5B-Instruct, and so mxbai-rerank-base-v2
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4_864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
}
SMOLLM2_135M = {  # HuggingFaceTB/SmolLM2-135M-Instruct
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8_192,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
}
MINILM = {  # sentence-transformers/all-MiniLM-L6-v2, cross-encoder/ms-marco-MiniLM-L6-v2
    "vocab_size": 30_522,
    "hidden_size": 384,
    "intermediate_size": 1_536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}


def byte_tokenizer(texts: Iterable[str], special: Sequence[str], size: int = 30_000) -> Any:
    """A byte-level BPE tokenizer like Qwen's, trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_causal(folder: Path, shape: str, texts: Iterable[str], seed: int = 0) -> Path:
    """A random model of a causal shape (`smollm2-135m`, `qwen2.5-0.5b`) and its tokenizer, in bf16 as they are."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    tokenizer = byte_tokenizer(texts, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    torch.manual_seed(seed)
    config = {"smollm2-135m": LlamaConfig(**SMOLLM2_135M), "qwen2.5-0.5b": Qwen2Config(**QWEN25_05B)}[shape]
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_cross_encoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A cross-encoder of the MiniLM shape: the embedded backbone with a random classification head."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from prorank.model.loading import resolve_source

    torch.manual_seed(seed)
    source = resolve_source("embedded")
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, **changes).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def make_flashrank(classifier: Path, folder: Path, int8: bool) -> Path:
    """A BERT classifier as FlashRank finds its MiniLM: an ONNX graph and a tokenizer in a folder of that name.

    Args:
        classifier: of `make_cross_encoder`.
        folder: takes the model's folder.
        int8: matrices in 8 bits, activations quantised as they come, as the published files are.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = folder / "ms-marco-MiniLM-L-12-v2"
    place.mkdir(parents=True)
    model = AutoModelForSequenceClassification.from_pretrained(classifier, return_dict=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    inputs = dict(tokenizer([("a", "b c")] * 2, padding=True, return_tensors="pt"))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    graph = folder / "model.onnx"
    torch.onnx.export(
        model,
        (),
        str(graph),
        kwargs=inputs,
        dynamic_shapes=dict.fromkeys(inputs, free),
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    final = place / "flashrank-MiniLM-L-12-v2_Q.onnx"
    if int8:
        quantize_dynamic(graph, final, weight_type=QuantType.QInt8)
    else:
        graph.rename(final)
    model.config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    words = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    write_json(place / "special_tokens_map.json", words)
    return place


def checkpoint(source: str | Path, folder: Path, prompt: str, max_length: int) -> Path:
    """A prorank checkpoint of a model with a prompt."""
    reranker = Reranker.from_pretrained(source, prompt=prompt, max_length=max_length, precision="bf16", device="cpu")
    reranker.save_pretrained(folder)
    return folder


def first_stage_pairs(collection: Collection, depth: int, count: int) -> list[tuple[str, str]]:
    """`count` (query, document) pairs: BM25's top `depth` of the first judged queries."""
    qrels = sample_queries(collection.judgments(next(s for s in ("test", "dev", "train") if s in collection.qrels)))
    queries = {q: collection.queries[q] for q in islice(qrels, -(-count // depth) + 2)}
    run = BM25Index.build(collection.documents).search(queries, top_k=depth, progress=True)
    pairs = [(queries[q], collection.documents[d].content) for q, documents in run.items() for d in documents]
    return pairs[:count]
