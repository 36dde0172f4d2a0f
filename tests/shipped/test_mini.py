"""The model that ships: small, whole, calibrated, the default, and of some use."""

import json

import pytest

from prorank import Reranker
from prorank.recipe.loading import load_recipe, validate_recipe
from prorank.shipped import FOLDERS, MINI

FOLDER = FOLDERS[MINI]

CLEAR = [  # query, a document that answers it, one that does not although it shares words or subject
    (
        "when do owls hunt",
        "Most owls hunt at night, when mice and voles are about.",
        "Owls are birds of the order Strigiformes, with more than two hundred species.",
    ),
    (
        "how to read a csv file in python",
        "def load(path):\n    with open(path, newline='') as file:\n        return list(csv.reader(file))",
        "def area(radius):\n    return math.pi * radius ** 2",
    ),
    (
        "find all files larger than 10 megabytes",
        "find . -type f -size +10M",
        "sort -u names.txt",
    ),
    (
        "What are the symptoms of influenza?",
        "The symptoms of influenza include fever, chills, cough, sore throat and aching muscles.",
        "The symptoms of hay fever include sneezing, itching eyes and a runny nose.",
    ),
    (
        "who wrote the opera Aida",
        "Aida is an opera in four acts by Giuseppe Verdi, first performed in Cairo in 1871.",
        "The opera house in Cairo burnt down in 1971.",
    ),
]


@pytest.fixture(scope="module")
def mini():
    return Reranker()


def test_it_fits_and_is_whole():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 45 * 1024**2
    assert {"prorank.json", "config.json", "tokenizer.json", "README.md"} <= {file.name for file in FOLDER.iterdir()}
    assert not list(FOLDER.glob("*.bin")) and list(FOLDER.glob("*.safetensors"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "CC BY-SA 4.0" in card and "## Limits" in card


@pytest.mark.parametrize(("query", "answer", "other"), CLEAR, ids=[query for query, _, _ in CLEAR])
def test_clear_cases(mini, query, answer, other):
    (first, _) = mini.rank(query, [other, answer])
    assert first["corpus_id"] == 1


def test_one_half_is_a_threshold(mini):
    probabilities = {
        relevant: mini.probability(mini.score([(query, pair[not relevant]) for query, *pair in CLEAR]))
        for relevant in (True, False)
    }
    assert mini.settings.calibration is not None
    assert sum(p > 0.5 for p in probabilities[True]) >= 4
    far = [(CLEAR[i][0], CLEAR[(i + 2) % len(CLEAR)][1]) for i in range(len(CLEAR))]  # answers to other questions
    assert all(p < 0.5 for p in mini.probability(mini.score(far)))


def test_it_is_the_shipped_recipes_model(mini):
    recipe = dict(mini.settings.recipe)
    recipe["data"] = {**recipe["data"], "folder": "collections"}
    assert validate_recipe(recipe) == load_recipe("prorank-mini-3")
    assert mini.settings.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_it_is_the_default_of_the_command(tmp_path, monkeypatch, call):
    query, answer, other = CLEAR[0]
    monkeypatch.chdir(tmp_path)
    code, out, error = call("rerank", query, other, answer, "--json")
    assert code == 0, error
    assert json.loads(out)[0]["text"] == answer
    assert json.loads(call("info", "--json")[1])["model"] == MINI


def test_it_can_be_trained_on(tmp_path):
    reranker = Reranker(precision="fp32", for_training=True)
    assert all(p.requires_grad for p in reranker.backbone.parameters())
    reranker.save_pretrained(tmp_path)
    pair = [CLEAR[0][:2]]
    assert Reranker(tmp_path, precision="fp32").score(pair) == pytest.approx(reranker.score(pair), abs=1e-4)
