"""`prorank serve`: a reranker behind the HTTP APIs that people call already. Parses, calls, prints."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from prorank.cli.shared import MODEL_HELP, ByCascade, Device, MaxLength, PrecisionOption, err, uncollected
from prorank.shipped import MINI
from prorank.util.addresses import loopback_host
from prorank.util.errors import InputError, require

logger = logging.getLogger(__name__)


def serve(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = MINI,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65_535)] = 8_000,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    max_length: MaxLength = None,
    cascade: ByCascade = False,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key which callers must send.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a batch; default: what suits the device.", min=1)
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Pairs that may wait; more get 429.", min=1)] = 10_000,
    max_documents: Annotated[int, typer.Option(help="Documents of a request.", min=1)] = 1_000,
    max_body: Annotated[int, typer.Option(help="Bytes of a request's body.", min=1)] = 8 * 2**20,
    max_text: Annotated[int, typer.Option(help="Characters of a query or document.", min=1)] = 100_000,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 60.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON objects, one per line.")] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log queries and documents too.")] = False,
    cors: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may call, e.g. https://example.org; several times.")
    ] = None,
) -> None:
    """Serve a reranker: the APIs of Cohere, Jina, text-embeddings-inference and vLLM."""
    for module in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
        require(module, "serve")
    with uncollected():
        from prorank.reranker import Reranker
        from prorank.serving.app import create_app
        from prorank.serving.limits import Limits
        from prorank.serving.server import Server, listen, log_lines
        from prorank.serving.service import Service, hand_over_threads, model_name

    limits = Limits(max_body, max_documents, max_text, max_queue, timeout)
    key = api_key(api_key_env)
    log_lines(log_json)
    if key is None and not loopback_host(host):
        logger.warning("%s can be reached from other machines, and no key is asked for (--api-key-env)", host)
    listener = listen(host, port)
    take_threads = hand_over_threads()
    with uncollected():
        reranker = Reranker(model, device=device, precision=precision, max_length=max_length, cascade=cascade)
    service = Service(reranker, model_name(model), limits, max_batch_tokens, take_threads)
    app = create_app(service, key=key, origins=cors or (), log_texts=log_texts)
    shown = f"[{host}]" if ":" in host else host
    line = f"{model_name(model)} at http://{shown}:{listener.getsockname()[1]} (Ctrl-C stops it; /docs tells the API)"
    server = Server(app, timeout, lambda: err.print(line, soft_wrap=True, highlight=False, markup=False))
    server.run(sockets=[listener])


def api_key(variable: str | None) -> str | None:
    """The key that an environment variable holds; None if no variable is named.

    Raises:
        InputError: the variable is empty or not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"--api-key-env: {variable} is empty or not set", hint=f"export {variable}=...")
    return key
