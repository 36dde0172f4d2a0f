"""Each framework's own retrieval pipeline with a reranker in it, from a model here and from a server.

The retrievers put the moon first, so that only the reranker can bring the owls to the top.
"""

import ast
import asyncio
import json
import os

import pytest
from pages import ROOT, blocks
from served import serving
from typer.testing import CliRunner

from prorank import Reranker
from prorank.cli.main import app
from prorank.serving.service import Service
from prorank.util.errors import InputError

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"
QUERY = "when do owls hunt"
MOON, OWLS, RIVER = "When the moon is far.", "Owls hunt mice at night.", "Rivers do not hunt."
TEXTS = [MOON, RIVER, OWLS, "When do we do the laundry?"]


@pytest.fixture(scope="module")
def mini():
    return Reranker(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def address(mini):
    with serving(Service(mini, "mini"), key="s3cret") as address:
        yield address


@pytest.fixture(scope="module")
def ranking(mini):
    """(text, probability), best first."""
    found = mini.rank(QUERY, TEXTS)
    chances = mini.probability([result["score"] for result in found])
    assert found[0]["corpus_id"] == 2
    return [(TEXTS[result["corpus_id"]], chance) for result, chance in zip(found, chances)]


@pytest.fixture(params=["local", "remote"])
def place(request, mini, address):
    """Arguments of an integration."""
    return {"model": mini} if request.param == "local" else {"base_url": address, "api_key": "s3cret"}


def same(found, ranking):
    """(text, score) pairs are those of the ranking's head."""
    texts, scores = zip(*found)
    assert list(texts) == [text for text, _ in ranking[: len(texts)]]
    assert list(scores) == pytest.approx([score for _, score in ranking[: len(texts)]], abs=1e-5)


class TestLangChain:
    @pytest.fixture
    def retriever(self, place):
        """Keeps the three best of what a retriever found."""
        from langchain_classic.retrievers import ContextualCompressionRetriever
        from langchain_core.documents import Document
        from langchain_core.retrievers import BaseRetriever

        from prorank.integrations.langchain import ProrankRerank

        documents = [Document(text, id=str(i), metadata={"tags": [i]}) for i, text in enumerate(TEXTS)]

        class Fixed(BaseRetriever):
            def _get_relevant_documents(self, query, *, run_manager):
                return documents

        compressor = ProrankRerank(**place)
        return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed()), documents

    def test_a_compression_retriever_ranks(self, retriever, ranking):
        retriever, documents = retriever
        for found in (retriever.invoke(QUERY), asyncio.run(retriever.ainvoke(QUERY))):
            assert len(found) == 3
            same([(document.page_content, document.metadata["relevance_score"]) for document in found], ranking)
            assert [found[0].id, found[0].metadata["tags"]] == ["2", [2]]
            found[0].metadata["tags"].append("changed")
        assert [document.metadata for document in documents] == [{"tags": [i]} for i in range(4)]

    def test_callbacks_see_the_step(self, retriever):
        from langchain_core.callbacks import BaseCallbackHandler

        seen = []

        class Watcher(BaseCallbackHandler):
            def on_chain_start(self, serialized, inputs, **more):
                seen.append((more.get("name"), inputs))

            def on_chain_end(self, outputs, **more):
                seen.append(outputs)

        retriever[0].invoke(QUERY, {"callbacks": [Watcher()]})
        assert seen[0] == ("prorank", QUERY) and len(seen[1]) == 3

    def test_mistakes_are_told_at_once(self, mini):
        from prorank.integrations.langchain import ProrankRerank

        for wrong in ({"top_n": 0}, {"topn": 3}):
            with pytest.raises(ValueError, match=r"top_?n"):
                ProrankRerank(model=mini, **wrong)
        for wrong, said in (({"model": "./no/such/folder"}, "no such folder"), ({"api_key": "s3cret"}, "no base_url")):
            with pytest.raises(ValueError, match=said) as told:
                ProrankRerank(**wrong)
            assert "s3cret" not in str(told.value)
        assert ProrankRerank(model=mini).compress_documents([], QUERY) == []
        assert "s3cret" not in repr(ProrankRerank(base_url="http://127.0.0.1:9", api_key="s3cret"))


class TestLlamaIndex:
    @pytest.fixture
    def engine(self, place):
        """A query engine that answers with its prompt; its retriever finds all nodes in order."""
        from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
        from llama_index.core.llms import MockLLM
        from llama_index.core.query_engine import RetrieverQueryEngine
        from llama_index.core.retrievers import BaseRetriever
        from llama_index.core.schema import NodeWithScore, TextNode

        from prorank.integrations.llamaindex import ProrankRerank

        nodes = [NodeWithScore(node=TextNode(text=text), score=1 - i / 10) for i, text in enumerate(TEXTS)]

        class Fixed(BaseRetriever):
            def _retrieve(self, query_bundle):
                return nodes

        debug = LlamaDebugHandler(print_trace_on_end=False)
        engine = RetrieverQueryEngine.from_args(
            Fixed(),
            llm=MockLLM(),
            node_postprocessors=[ProrankRerank(**place, top_n=2)],
            callback_manager=CallbackManager([debug]),  # which the engine gives to all its parts
        )
        return engine, nodes, debug

    def test_a_query_engine_answers_from_the_best_nodes(self, engine, ranking):
        engine, nodes, _ = engine
        for found in (engine.query(QUERY), asyncio.run(engine.aquery(QUERY))):
            same([(node.node.get_content(), node.score) for node in found.source_nodes], ranking)
            assert len(found.source_nodes) == 2 and OWLS in str(found) and MOON not in str(found)
        assert [node.score for node in nodes] == [1, 0.9, 0.8, 0.7]

    def test_events_tell_what_went_in_and_came_out(self, engine):
        from llama_index.core.callbacks import CBEventType, EventPayload

        engine, nodes, debug = engine
        found = engine.query(QUERY).source_nodes
        ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
        assert start.payload[EventPayload.NODES] == nodes and start.payload[EventPayload.QUERY_STR] == QUERY
        assert end.payload[EventPayload.NODES] == found

    def test_the_model_reads_metadata_that_is_embedded(self, mini):
        from llama_index.core.schema import NodeWithScore, TextNode

        from prorank.integrations.llamaindex import ProrankRerank

        nodes = [NodeWithScore(node=TextNode(text="At night.", metadata={"title": t})) for t in ("Moons", "Owls hunt")]
        ranker = ProrankRerank(model=mini)
        assert ranker.postprocess_nodes(nodes, query_str=QUERY)[0].node.metadata["title"] == "Owls hunt"
        assert ranker.class_name() == "ProrankRerank" and ranker.postprocess_nodes([], query_str=QUERY) == []
        with pytest.raises(InputError, match="no query"):
            ranker.postprocess_nodes(nodes)

    def test_written_down_without_its_key(self, address):
        from prorank.integrations.llamaindex import ProrankRerank

        written = ProrankRerank(base_url=address, api_key="s3cret", top_n=1).to_dict()
        assert "s3cret" not in str(written) and "api_key" not in written
        with pytest.raises(ValueError, match="no base_url") as told:
            ProrankRerank(api_key="s3cret")
        assert "s3cret" not in str(told.value)
        again = ProrankRerank.from_dict(written, api_key="s3cret")
        assert again.top_n == 1 and again.base_url == address


class TestHaystack:
    @pytest.fixture
    def place(self, place):
        from haystack.utils import Secret

        return place | ({"api_key": Secret.from_token(place["api_key"])} if "api_key" in place else {})

    @pytest.fixture
    def pipeline(self, place):
        from haystack import Document, Pipeline
        from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        from prorank.integrations.haystack import ProrankRanker

        store = InMemoryDocumentStore()
        store.write_documents([Document(content=text, meta={"place": i}) for i, text in enumerate(TEXTS)])
        pipeline = Pipeline()
        pipeline.add_component("retriever", InMemoryBM25Retriever(store))
        pipeline.add_component("ranker", ProrankRanker(**place, top_k=3))
        pipeline.connect("retriever.documents", "ranker.documents")
        return pipeline

    def ask(self, pipeline, **arguments):
        data = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY, **arguments}}
        found = pipeline.run(data)["ranker"]["documents"]
        later = asyncio.run(pipeline.run_async(data)) if hasattr(pipeline, "run_async") else None
        assert later is None or later["ranker"]["documents"] == found
        return found

    def test_a_pipeline_ranks(self, pipeline, ranking, mini):
        found = self.ask(pipeline)
        assert len(found) == 3
        same([(document.content, document.score) for document in found], ranking)
        assert found[0].meta == {"place": 2}
        raw = self.ask(pipeline, scale_score=False, top_k=1)
        same([(document.content, document.score) for document in raw], [(OWLS, mini.score([(QUERY, OWLS)])[0])])

    def test_an_explicit_value_goes_before_the_components_own(self, place, ranking, mini):
        from haystack import Document

        from prorank.integrations.haystack import ProrankRanker

        documents = [Document(content=text) for text in TEXTS]
        ranker = ProrankRanker(**place, score_threshold=ranking[0][1] - 1e-4)
        ask = {"query": QUERY, "documents": documents}
        assert [document.content for document in ranker.run(**ask)["documents"]] == [OWLS]
        assert len(ranker.run(**ask, score_threshold=0.0)["documents"]) == 4
        assert len(ranker.run(**ask, score_threshold=0.0, top_k=2)["documents"]) == 2
        own = ProrankRanker(**place, scale_score=False)
        same(
            [(own.run(**ask)["documents"][0].content, own.run(**ask, scale_score=True)["documents"][0].score)], ranking
        )
        assert own.run(**ask)["documents"][0].score == pytest.approx(mini.score([(QUERY, OWLS)])[0], abs=1e-4)
        assert [document.score for document in documents] == [None] * 4

    def test_the_model_is_loaded_by_warm_up(self, bert_folder):
        from prorank.integrations.haystack import ProrankRanker

        ranker = ProrankRanker(bert_folder)
        assert ranker._source is None
        ranker.warm_up()
        loaded = ranker._source
        ranker.warm_up()
        assert loaded is not None and ranker._source is loaded

    def test_a_pipeline_is_written_and_read_without_its_key(self, address, monkeypatch, mini):
        import haystack
        from haystack import Pipeline
        from haystack.utils import Secret

        from prorank.integrations.haystack import ProrankRanker

        monkeypatch.setenv("RANK_KEY", "s3cret")
        ranker = ProrankRanker(
            "m", base_url=address, api_key=Secret.from_env_var("RANK_KEY"), scale_score=False, top_k=2
        )
        pipeline = Pipeline()
        pipeline.add_component("ranker", ranker)
        written = pipeline.dumps()
        assert "s3cret" not in written and "RANK_KEY" in written
        trusted = {"allowed_modules": ["prorank.integrations.haystack"]}  # Haystack 2 has no such list
        again = Pipeline.loads(written, **(trusted if haystack.__version__ >= "3" else {})).get_component("ranker")
        assert again.to_dict() == ranker.to_dict() and again.top_k == 2 and again.scale_score is False
        assert ProrankRanker.from_dict(ProrankRanker().to_dict()).api_key is None
        with pytest.raises(InputError, match="in memory"):
            ProrankRanker(mini).to_dict()


class TestLanceDB:
    @pytest.fixture
    def table(self, tmp_path):
        """Two-dimensional vectors that lie around the moon's."""
        import lancedb

        rows = [{"text": text, "vector": [1.0, i / 10], "number": i} for i, text in enumerate(TEXTS)]
        table = lancedb.connect(tmp_path).create_table("texts", rows)
        table.create_fts_index("text")
        return table

    def test_hybrid_search(self, table, place, ranking):
        from prorank.integrations.lancedb import ProrankReranker

        search = table.search(query_type="hybrid").vector([1.0, 0.0]).text(QUERY).limit(10)
        found = search.rerank(ProrankReranker(**place)).to_list()
        same([(row["text"], row["_relevance_score"]) for row in found], ranking)
        assert len(found) == 4 and found[0]["number"] == 2 and not {"_distance", "_score"} & set(found[0])

    def test_vector_and_full_text_search(self, table, place, ranking):
        from prorank.integrations.lancedb import ProrankReranker

        ranker = ProrankReranker(**place, top_n=2)
        for search in (
            table.search([1.0, 0.0]).rerank(ranker, query_string=QUERY),
            table.search(QUERY).rerank(ranker),
        ):
            found = search.to_list()
            same([(row["text"], row["_relevance_score"]) for row in found], ranking)
            assert len(found) == 2

    def test_all_scores_are_kept_where_wanted(self, table, place):
        from prorank.integrations.lancedb import ProrankReranker

        search = table.search(query_type="hybrid").vector([1.0, 0.0]).text("owls")
        found = search.rerank(ProrankReranker(**place, return_score="all")).to_list()
        assert {row["text"]: row["_score"] is None for row in found} == {text: text != OWLS for text in TEXTS}
        assert all(row["_distance"] is not None for row in found)

    def test_nothing_found_and_missing_columns(self, table, mini):
        from prorank.integrations.lancedb import ProrankReranker

        assert table.search("zebra").rerank(ProrankReranker(mini)).to_list() == []
        with pytest.raises(InputError, match=r"no column 'body', but .*text"):
            table.search("owls").rerank(ProrankReranker(mini, column="body")).to_list()


class TestPyTerrier:
    @pytest.fixture
    def first_stage(self):
        """Two queries' results, as a transformer gives them."""
        import pandas as pd
        import pyterrier as pt

        rows = [("q1", QUERY, f"d{i}", text, -i) for i, text in enumerate(TEXTS)] + [("q2", "the moon", "d0", MOON, 0)]
        frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score"])
        return pt.Transformer.from_df(frame)

    def test_a_pipeline_ranks_each_query_without_java(self, first_stage, place, ranking):
        import pandas as pd
        import pyterrier as pt

        from prorank.integrations.pyterrier import ProrankReranker

        queries = pd.DataFrame([("q1", QUERY), ("q2", "the moon")], columns=["qid", "query"])
        pipeline = first_stage >> ProrankReranker(**place) % 2
        found = pipeline(queries)
        first = found[found.qid == "q1"].sort_values("rank")
        same(list(zip(first.text, first.score)), ranking)
        assert list(first["rank"]) == [0, 1] and list(found[found.qid == "q2"].docno) == ["d0"]
        assert not pt.java.started()

        qrels = pd.DataFrame([("q1", "d2", 1), ("q2", "d0", 1)], columns=["qid", "docno", "label"])
        table = pt.Experiment([first_stage, pipeline], queries, qrels, ["recip_rank"], names=["first", "prorank"])
        assert table.set_index("name").recip_rank.to_dict() == pytest.approx({"first": 2 / 3, "prorank": 1})

    def test_missing_columns_and_no_rows(self, mini):
        import pandas as pd
        import pyterrier as pt

        from prorank.integrations.pyterrier import ProrankReranker

        columns = ["qid", "query", "docno", "body"]
        assert list(ProrankReranker(mini, text_field="body")(pd.DataFrame(columns=columns)).columns)[-2:] == [
            "score",
            "rank",
        ]
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            ProrankReranker(mini)(pd.DataFrame([("q", "a", "d", "b")], columns=columns))


PAGE = ROOT / "docs" / "integrations.md"


class TestPage:
    """docs/integrations.md says what is so."""

    @pytest.mark.parametrize(
        "code", blocks(PAGE, "python"), ids=lambda code: code.split("prorank.integrations.")[1][:9]
    )
    def test_its_code_finds_the_owls_here_and_by_a_server(self, code, mini, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names, values = {}, []
        with serving(Service(mini, "mini")) as address:
            assert "http://127.0.0.1:8000" in code
            for statement in ast.parse(code.replace("http://127.0.0.1:8000", address)).body:
                text = ast.unparse(statement)
                if isinstance(statement, ast.Expr):
                    values.append(eval(text, names))
                else:
                    exec(text, names)
        told = [value for value in values if value is not None]
        rankings = [str(value[value["rank"] == 0] if "rank" in value else value) for value in told[-2:]]
        assert len(rankings) == 2 and all("Owls hunt mice" in ranking for ranking in rankings)
        assert not any("moon" in ranking or "trees" in ranking for ranking in rankings)

    def test_its_configuration_starts_commands_that_exist(self):
        (text,) = blocks(PAGE, "json")
        servers = json.loads(text)["mcpServers"].values()
        assert len(servers) == 2
        help_text = CliRunner().invoke(app, ["mcp", "--help"], terminal_width=200).output
        for server in servers:
            assert server["command"] == "prorank" and server["args"][0] == "mcp"
            assert all(word in help_text for word in server["args"] if word.startswith("--"))
