from rich.console import Console

from prorank.pipeline.showcase import clearest_gain, showcase


def test_the_query_with_the_clearest_gain():
    first = {"x": {"a": 3.0, "b": 2.0, "c": 1.0}, "y": {"a": 3.0, "b": 2.0}, "z": {"a": 1.0}}
    new = {"x": {"c": 3.0, "b": 2.0, "a": 1.0}, "y": {"b": 3.0, "a": 2.0}, "z": {"a": 1.0}}
    assert clearest_gain(first, new, {"x": {"c": 1}, "y": {"b": 1}, "z": {"k": 1}}) == "x"


def test_it_prints_new_and_old_ranks_in_eighty_columns(finished):
    console = Console(width=80, record=True)
    showcase(finished[0], console)
    text = console.export_text()
    assert "was" in text and "relevant" in text and "prorank rerank" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "prorank" not in line and "warmup" not in line)
