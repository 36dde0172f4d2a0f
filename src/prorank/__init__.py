"""prorank: small language models as document rerankers (ProRank, arXiv 2506.03487)."""

from typing import TYPE_CHECKING, Any

from prorank.util.version import VERSION as __version__

__all__ = ["Reranker", "__version__"]

if TYPE_CHECKING:
    from prorank.reranker import Reranker


def __getattr__(name: str) -> Any:
    if name == "Reranker":  # torch is loaded only when it is needed
        from prorank.reranker import Reranker

        return Reranker
    raise AttributeError(f"module 'prorank' has no attribute {name!r}")
