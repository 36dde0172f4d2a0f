"""PostgreSQL full text as a first stage, reranked. The script starts a cluster of its own and removes it at the end.

Needs PostgreSQL's programs (Debian: `apt-get install postgresql`) and `pip install 'psycopg[binary]'`. Nothing listens
on the network: the server is reached by a socket in a folder that only its user may open.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from prorank import Reranker
from prorank.data.collection import load_collection

SCHEMA = """
CREATE TABLE documents (
    id text PRIMARY KEY,
    content text NOT NULL,
    terms tsvector GENERATED ALWAYS AS (to_tsvector('english', content)) STORED
);
"""
# Any of the query's words may match; websearch_to_tsquery would want all of them, and find little for a question.
SEARCH = """
WITH words AS (SELECT replace(plainto_tsquery('english', %(query)s)::text, '&', '|')::tsquery AS query)
SELECT id, content, ts_rank(terms, query, 1) AS score FROM documents, words
WHERE terms @@ query ORDER BY score DESC, id LIMIT %(limit)s
"""


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian keeps those of the server out of the search path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


@contextmanager
def cluster() -> Iterator[str]:
    """How to connect to a new, empty server, as long as the context is open."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise SystemExit("PostgreSQL's initdb and pg_ctl are not here (Debian: apt-get install postgresql)")
    root = os.geteuid() == 0  # as whom PostgreSQL refuses to run; Debian's package brings a user for it
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="prorank-pg-"))  # mode 0700
    data, log = folder / "data", folder / "log"

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            command, **who, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr}{log.read_text() if log.exists() else ''}")

    try:
        if root:
            shutil.chown(folder, "postgres", "postgres")
        run(initdb, "--pgdata", data, "--username", "owner", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        run(pg_ctl, "start", "--wait", "-D", data, "-l", log, "-o", f"-k '{folder}' -c listen_addresses='' -F")
        try:
            yield f"host={folder} user=owner dbname=postgres"
        finally:
            run(pg_ctl, "stop", "--wait", "-D", data, "-m", "fast")
    finally:
        shutil.rmtree(folder)


def index(connection: psycopg.Connection, documents: Mapping[str, str]) -> None:
    """Write documents (id -> text) into a new table with a full-text index."""
    connection.execute(SCHEMA)
    with connection.cursor().copy("COPY documents (id, content) FROM STDIN") as copy:
        for row in documents.items():
            copy.write_row(row)
    connection.execute("CREATE INDEX ON documents USING gin (terms)")
    connection.commit()


def search(connection: psycopg.Connection, query: str, limit: int = 50) -> list[tuple[str, str, float]]:
    """(id, text, score) of what full-text search finds, best first."""
    return connection.execute(SEARCH, {"query": query, "limit": limit}).fetchall()


def rerank(reranker: Reranker, query: str, found: list[tuple[str, str, float]], top_k: int) -> list[tuple[str, float]]:
    """(id, probability) of the most relevant of them."""
    ranked = reranker.rank(query, [text for _, text, _ in found], top_k=top_k)
    chances = reranker.probability([result["score"] for result in ranked])
    return [(found[result["corpus_id"]][0], chance) for result, chance in zip(ranked, chances)]


if __name__ == "__main__":
    texts = {identifier: document.content for identifier, document in load_collection("cosqa").documents.items()}
    question = "python read a csv file into a list"
    with cluster() as address, psycopg.connect(address) as database:
        index(database, texts)
        candidates = search(database, question)
    print(f"ts_rank over {len(texts)} functions: {question}")
    for identifier, text, score in candidates[:5]:
        print(f"  {score:.3f}  {identifier}  {text.splitlines()[0][:80]}")
    print(f"its first {len(candidates)} reranked")
    for identifier, chance in rerank(Reranker(), question, candidates, 5):
        print(f"  {chance:.3f}  {identifier}  {texts[identifier].splitlines()[0][:80]}")
