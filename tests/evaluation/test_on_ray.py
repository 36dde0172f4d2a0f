"""A run reranked on a Ray cluster of two machines: the bytes of one process, also when a worker is killed."""

import json
import os
import signal
from contextlib import suppress

import pytest
from conftest import write_collection

from prorank.data.trec import write_run
from prorank.evaluation import streaming
from prorank.evaluation.streaming import Journal

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'prorank[ray]')")
from prorank.evaluation.on_ray import RayCrew, seats  # noqa: E402  it needs Ray

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}


@pytest.fixture(scope="session")
def cluster():
    """The address of a cluster of two machines with one core each; one of them is the head."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"include_dashboard": False, "no_monitor": True, **SMALL}
    with suppress(Exception):  # Ray gives a machine that is busy otherwise 15 s to start: it gets a second chance
        found = None
        found = Cluster(initialize_head=True, head_node_args=head)
    found = found or Cluster(initialize_head=True, head_node_args=head)
    found.add_node(**SMALL)
    yield found.address
    found.shutdown()


@pytest.fixture(scope="module")
def bulk(bert_folder, tmp_path_factory):
    """Arguments of `rerank --run` on 48 queries, without an output."""
    folder = tmp_path_factory.mktemp("bulk")
    words = ["red stone", "blue river", "green tree", "the water", "apple of stone", "river"]
    documents = {f"d{i}": f"{words[i % 6]} {words[i % 5]} " * (i % 4 + 1) for i in range(30)}
    queries = {f"q{i}": f"{words[i % 6]} {words[(i // 6) % 6]}" for i in range(48)}
    write_collection(folder / "c", documents, queries, {"test": {q: {"d1": 1} for q in queries}})
    run = {q: {f"d{(i + 7 * j) % 30}": 9.0 - j for j in range(8)} for i, q in enumerate(queries)}
    write_run(run, folder / "in.run")
    options = ["-m", bert_folder, "--prompt", "prorank-short", "--max-length", 32, "--depth", 6]
    return ["rerank", "--run", folder / "in.run", "--collection", folder / "c", *options]


def test_a_cluster_writes_the_bytes_of_one_process_though_a_worker_is_killed(
    cluster, bulk, call, tmp_path, monkeypatch
):
    monkeypatch.setattr(streaming.blocks, "__defaults__", (24,))  # four queries
    assert call(*bulk, "--output", tmp_path / "alone.run")[0] == 0
    asked, written, ask, append = [], [], RayCrew.ask, Journal.append

    def ask_and_kill(crew, place, pairs):
        asked.append(place)
        if len(asked) != 5:
            return ask(crew, place, pairs)
        worker = ray.get(crew._actors[place].__ray_call__.remote(lambda self: os.getpid()))
        ticket = ask(crew, place, pairs)
        os.kill(worker, signal.SIGKILL)
        return ticket

    monkeypatch.setattr(RayCrew, "ask", ask_and_kill)
    monkeypatch.setattr(Journal, "append", lambda journal, run: written.extend(run) or append(journal, run))
    code, out, err = call(*bulk, "--output", tmp_path / "many.run", "--ray", cluster, "--json")
    assert code == 0 and "a worker died" in err
    assert (tmp_path / "many.run").read_bytes() == (tmp_path / "alone.run").read_bytes()
    assert written == [f"q{i}" for i in range(48)] and len(asked) == 13
    assert json.loads(out)["scored"] == json.loads(out)["pairs"] == 288
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_an_address_without_a_cluster_is_refused_at_once(address, bulk, call, tmp_path):
    code, _, err = call(*bulk, "--output", tmp_path / "out.run", "--ray", address)
    assert code == 2 and f"no Ray cluster at {address}" in err and not list(tmp_path.glob("out.run*"))


def test_every_gpu_or_else_every_machine_gets_a_worker():
    node = {"Alive": True, "NodeID": "abcdef0123", "NodeManagerAddress": "10.0.0.2"}
    machines = [
        node | {"Resources": {"CPU": 16.0, "GPU": 4.0}},
        node | {"NodeID": "1111111111", "Resources": {"CPU": 8.0}},
        node | {"NodeID": "2222222222", "Resources": {"CPU": 1.0, "GPU": 4.0}},
        node | {"NodeID": "3333333333", "Resources": {"CPU": 8.0}, "Alive": False},
        node | {"NodeID": "4444444444", "Resources": {"memory": 1.0}},
    ]
    found = list(seats(machines, "auto").values())
    assert found == [("abcdef0123", 4.0, 1)] * 4 + [("1111111111", 8.0, 0)] + [("2222222222", 0.25, 1)] * 4
    assert [seat.cpus for seat in seats(machines, "cpu").values()] == [16.0, 8.0, 1.0]
