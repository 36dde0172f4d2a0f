"""A RAG loop: BM25 finds candidates, the reranker orders them, the best few go into the prompt of a language model."""

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.first_stage.bm25 import BM25Index


def context_for(question: str, index: BM25Index, texts: dict[str, str], reranker: Reranker, passages: int = 3) -> str:
    """The passages that a language model should read before it answers.

    Args:
        question: what the user asks.
        index: first stage over the corpus.
        texts: document id -> text.
        reranker: orders what the first stage found.
        passages: how many are kept.
    """
    found = list(index.search({"question": question}, top_k=20)["question"])
    ranked = reranker.rank(question, [texts[document] for document in found], top_k=passages)
    return "\n\n".join(f"[{result['score']:+.2f}] {texts[found[result['corpus_id']]]}" for result in ranked)


if __name__ == "__main__":
    collection = load_collection("cosqa")
    bm25 = BM25Index.build(collection.documents)
    documents = {identifier: document.content for identifier, document in collection.documents.items()}
    print(context_for("python read a csv file into a list", bm25, documents, Reranker()))
