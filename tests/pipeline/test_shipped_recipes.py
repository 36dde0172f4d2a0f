"""Every shipped recipe runs, on tiny models of the architectures that it names."""

import pytest
import torch
import transformers
from conftest import SIZE, bert_tokenizer, byte_tokenizer, save

from prorank.bench.toy import WORDS
from prorank.data.collection import load_collection
from prorank.first_stage.terms import detect_language
from prorank.pipeline.run import run_recipe
from prorank.recipe.loading import load_recipe, shipped_recipes, validate_recipe


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, qwen_folder):
    """A two-layer model of the architecture that each recipe names."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(2)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **SIZE)
    qwen3 = save(transformers.Qwen3ForCausalLM(config), tokenizer, tmp_path_factory.mktemp("qwen3"))
    words = bert_tokenizer([*WORDS, *"23456789", "10", "from", "to"])  # grades are words of it
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=600, **SIZE)
    bert = save(transformers.BertForMaskedLM(config), words, tmp_path_factory.mktemp("bert"))
    causal = {"Qwen/Qwen2.5": qwen_folder, "Qwen/Qwen3": qwen3, "smollm2": qwen_folder}
    return {"embedded": bert, "runs/prorank-mini": bert} | causal


def code_path(name):
    """What decides which code a recipe runs, but for numbers: recipes that share it are tried once."""
    recipe = load_recipe(name)
    warmup, score = recipe.warmup, recipe.score_learning
    return (
        recipe.backbone.model.partition("/")[0],
        recipe.backbone.lora is None,
        recipe.backbone.score,
        bool(recipe.data.union),
        warmup and (warmup.num_generations == "exact", warmup.kl > 0, warmup.scale_advantages),
        score and (score.loss, score.teacher is None, bool(score.average_with), score.pseudo_queries > 0),
        recipe.sft is None,
        recipe.listwise is None,
    )


@pytest.mark.parametrize("name", sorted({code_path(name): name for name in sorted(shipped_recipes())}.values()))
def test_shipped_recipes_run_two_steps(name, stand_ins, word_collection, tmp_path, monkeypatch):
    import prorank.score_learning.distillation as items_module

    # the bi-encoder and the reranker that teach are not here
    alone = lambda context, sources, drawn, model: {q: dict.fromkeys(d, 0.5) for q, d in drawn.items()}  # noqa: E731
    monkeypatch.setattr(items_module, "reranker_alone", alone)
    monkeypatch.setattr("prorank.pipeline.run.check_named", lambda *_: None)
    constant = lambda model, queries, documents, wanted, batch: {q: dict.fromkeys(d, 0.5) for q, d in wanted.items()}  # noqa: E731
    monkeypatch.setattr(items_module, "biencoder_scores", constant)
    recipe = load_recipe(name)
    named = recipe.backbone.model
    model = next((folder for key, folder in stand_ins.items() if named.startswith(key)), named)
    small = {"steps": 2, "evaluate_every": 1}
    tree = recipe.model_dump()
    tree["backbone"] |= {"model": str(model)}
    tree["backbone"]["max_length"] = max(tree["backbone"]["max_length"] or 0, 500)  # bytes are many tokens
    if recipe.data.union:
        part = recipe.data.union[0].model_dump() | {"collection": word_collection.name}
        tree["data"] |= {"union": [part], "folder": str(word_collection.parent)}
    else:
        tree["data"]["collection"] = str(word_collection)
    if recipe.warmup is not None:
        tree["warmup"] |= small | {"pairs_per_step": 2, "held_out_pairs": 10}
    if recipe.score_learning is not None:
        tree["score_learning"] |= small | {"queries_per_step": 1, "dev_queries": 2}
    if recipe.sft is not None:
        tree["first_stage"]["depth"] = 10
        tree["grades"] |= {
            "max_new_tokens": 8,
            "teacher": "qrels",
            "documents": {"hard": 1, "medium": 0, "easy": 0, "random": 1},
        }
        tree["sft"] |= small | {"pairs_per_step": 2, "dev_queries": 2}
        tree["listwise"] |= small | {"queries_per_step": 1, "dev_queries": 2, "max_new_tokens": 8}
    tree["evaluation"] |= {"rerank_depth": 3, "max_queries": 3}
    results = run_recipe(validate_recipe(tree), tmp_path / "run")
    stages = (recipe.warmup, recipe.score_learning, recipe.sft, recipe.listwise)
    assert len(results["rows"]) == 3 + sum(stage is not None for stage in stages)


def test_the_recipe_for_ones_own_data_reads_any_language_and_its_example_as_before():
    recipe = load_recipe("tune")
    documents = load_collection(recipe.data.collection).documents
    assert recipe.first_stage.language == "auto"
    assert detect_language(document.content for document in documents.values()) == "en"
