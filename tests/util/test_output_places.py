"""Where results go: a file in a folder's place is refused before the work."""

import pytest

from prorank import Reranker
from prorank.util.errors import ProrankError

FOLDERS = [
    ["train", "quickstart"],
    ["quickstart"],
    ["evaluate", "absent", "absent"],
    ["evaluate", "absent", "--suite", "nano-beir"],
    ["export", "absent", "--to", "onnx"],
    ["index", "absent"],
    ["analyze", "absent", "--collection", "absent"],
    ["data", "from-pairs", "absent.csv"],
    ["data", "convert", "followir", "absent"],
]
FILES = [
    ["data", "mine", "absent"],
    ["data", "synthesize", "absent"],
    ["search", "absent", "--collection", "absent"],
    ["rerank", "--run", "absent.run", "--collection", "absent"],
    ["calibrate", "absent", "absent"],
]


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize("inside", ["", "sub"])
@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_a_file_in_an_output_folders_place_is_refused_before_the_work(command, inside, force, tmp_path, call):
    (tmp_path / "mine").write_text("precious")
    code, _, err = call(*command, "--output", tmp_path / "mine" / inside, *force)
    assert code == 2 and "mine is a file, not a folder" in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_a_file_in_the_place_of_an_output_files_folder_is_refused_before_the_work(command, tmp_path, call):
    (tmp_path / "mine").write_text("precious")
    code, _, err = call(*command, "--output", tmp_path / "mine" / "sub" / "out")
    assert code == 2 and "mine is a file, not a folder" in " ".join(err.split())


def test_a_checkpoint_is_not_saved_onto_a_file(bert_folder, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ProrankError, match="mine is a file, not a folder"):
        Reranker(bert_folder, prompt="prorank-short", precision="fp32").save_pretrained(tmp_path / "mine")
