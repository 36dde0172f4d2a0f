"""The application: routes, bodies, and a request's way from its bytes to its answer.

Every route reads its body by hand, within the limits, and answers every mistake in the shape of the API that was
called. The OpenAPI document describes the bodies all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from prorank.engine.cascade import Passes
from prorank.serving import replies, schemas
from prorank.serving.batching import Job, QueueClosed, QueueFull
from prorank.serving.docs import docs_page
from prorank.serving.edge import Edge, Record, refused
from prorank.serving.errors import Refusal
from prorank.serving.replies import Reply, Scored
from prorank.serving.schemas import Call
from prorank.serving.service import Prepared, Service, check_texts, parsed, validated
from prorank.serving.side_by_side import both_orders
from prorank.util.version import VERSION

logger = logging.getLogger(__name__)
Found = TypeVar("Found")
PAGE = Path(__file__).parent / "page"
SMALL = 2**16  # bytes of a body that is read at once, in the event loop
TOKENISERS = 4  # threads that read and tokenise requests
UNHEALTHY = 3  # batches in a row that failed
CLIENT_GONE = 499  # as in nginx's logs; nobody reads it


class Api(NamedTuple):
    """A route that scores.

    Attributes:
        path: of the route.
        kinds: what it takes and how it answers; several are told apart by `choose`.
        reply: type of the answer, for the OpenAPI document.
        summary: for the OpenAPI document.
        aside: write the answer in a thread, since that takes long.
    """

    path: str
    kinds: tuple[tuple[type[schemas.Request], Reply], ...]
    reply: Any
    summary: str
    aside: bool = False

    def choose(self, found: dict[str, Any]) -> tuple[type[schemas.Request], Reply]:
        """Which API a body speaks: the second one if it has `documents` and no `texts`."""
        return self.kinds[-1 if "documents" in found and "texts" not in found else 0]

    @property
    def body(self) -> dict[str, Any]:
        """The request's body in the OpenAPI document."""
        kinds = [kind.model_json_schema() for kind, _ in self.kinds]
        schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


APIS = (
    Api("/v1/rerank", ((schemas.RerankV1, replies.union_v1),), schemas.ReplyV1, "Cohere v1, Jina and vLLM"),
    Api("/v2/rerank", ((schemas.RerankV2, replies.cohere_v2),), schemas.ReplyV2, "Cohere v2"),
    Api(
        "/rerank",
        ((schemas.RerankTei, replies.tei_rerank), (schemas.RerankVllm, replies.vllm_rerank)),
        list[schemas.Rank] | schemas.ReplyVllm,
        "text-embeddings-inference (texts) or vLLM (documents)",
    ),
    *(
        Api(path, ((schemas.ScoreVllm, replies.vllm_score),), schemas.ReplyScore, "vLLM: scores of pairs")
        for path in ("/score", "/v1/score")
    ),
)


class Bodies:
    """Bodies that are held, one by one and together within limits."""

    def __init__(self, each: int, together: int) -> None:
        self.each, self.together, self.held = each, together, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, counted as long as the context is open.

        Raises:
            Refusal: it is too large, or too much is held already.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self.each:
            raise self._too_large()
        body, counted = bytearray(), 0
        try:
            async for chunk in request.stream():
                counted += len(chunk)
                self.held += len(chunk)
                if counted > self.each:
                    raise self._too_large()
                if self.held > self.together:
                    raise Refusal("overloaded", "too many requests are being read", retry_after=1)
                body += chunk
            yield bytes(body)
        finally:
            self.held -= counted

    def _too_large(self) -> Refusal:
        return Refusal("too_large", f"the body is larger than {self.each} bytes", hint="split the request")


class ClientGone(Exception):
    """Nobody waits for the answer."""


async def answered(request: Request, future: Future[list[float]]) -> list[float]:
    """The scores of a job; its work is dropped if the client goes away or the time is over.

    Raises:
        ClientGone: before the scores were there.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    scores, leaving = asyncio.wrap_future(future), asyncio.ensure_future(gone())
    either: set[asyncio.Future[Any]] = {scores, leaving}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not scores.done():
            raise ClientGone
        return scores.result()
    finally:
        leaving.cancel()
        scores.cancel()


class Answering:
    """A request's way through the service.

    Args:
        service: what scores.
        log_texts: let log lines hold queries and documents.
    """

    def __init__(self, service: Service, log_texts: bool = False) -> None:
        self.service, self.log_texts = service, log_texts
        self.bodies = Bodies(service.limits.max_body, service.limits.max_bodies)
        self.pool = ThreadPoolExecutor(TOKENISERS, thread_name_prefix="prorank-tokens")

    async def aside(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """Run a function in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def __call__(self, request: Request, api: Api) -> Response:
        """Answer a request, or say in its API's words why not."""
        record: Record = request.scope["prorank"]
        try:
            with anyio.fail_after(self.service.limits.timeout):
                async with self.bodies.read(request) as body:
                    return await self._reply(request, api, body, record)
        except (ClientGone, ClientDisconnect):
            record.abandoned = True
            return Response(status_code=CLIENT_GONE)
        except Exception as error:
            refusal = self._refusal(error, record)
        record.reason = refusal.reason
        return refused(record.style, refusal)

    async def _reply(self, request: Request, api: Api, body: bytes, record: Record) -> Response:
        limits, small = self.service.limits, len(body) <= SMALL
        found = parsed(body) if small else await self.aside(parsed, body)
        kind, write = api.choose(found)
        record.style = kind.style
        call: Call = validated(kind, found, limits) if small else await self.aside(validated, kind, found, limits)
        check_texts(call, limits)
        record.pairs = len(call.pairs)
        if self.log_texts:
            record.texts = {"query": call.pairs[0][0], "documents": [document for _, document in call.pairs]}
        with self.service.batcher.admitted(len(call.pairs)):
            prepared = await self.aside(self.service.prepare, call)
            record.cut = prepared.truncation.pairs
            cascade = self.service.reranker.cascade
            if cascade is None:
                ranking = await self._scores(request, prepared.sequences, prepared.groups, record)
            else:
                passes = await self.aside(self.service.passes, cascade, prepared)
                ranking = await self._narrowed(request, call, prepared, passes, record)
        told = self.service.told(call, ranking)
        seconds = time.perf_counter() - record.started
        scored = Scored(record.id, self.service.name, ranking, told, record.tokens, prepared.truncation, seconds)
        content = await self.aside(write, call, scored) if api.aside else write(call, scored)
        return JSONResponse(content, headers={"X-Truncated-Pairs": str(record.cut)})

    async def _scores(
        self, request: Request, sequences: list[list[int]], groups: list[int], record: Record
    ) -> list[float]:
        record.tokens += sum(map(len, sequences))
        return await answered(request, self.service.batcher.submit(Job(sequences, groups)))

    async def _narrowed(
        self, request: Request, call: Call, prepared: Prepared, passes: Passes, record: Record
    ) -> list[float]:
        """A call's scores by the cascade: each pass waits for the batcher like a request of its own."""
        try:
            places, tokens = next(passes)
            while True:
                if tokens is None:
                    sequences = [prepared.sequences[place] for place in places]
                else:
                    sequences = await self.aside(self.service.shortened, call, prepared, places, tokens)
                groups = [prepared.groups[place] for place in places]
                found = await self._scores(request, sequences, groups, record)
                places, tokens = passes.send(np.array(found, dtype=np.float32))
        except StopIteration as end:
            return [float(score) for score in end.value]

    def _refusal(self, error: Exception, record: Record) -> Refusal:
        """What to tell the client of an error."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, QueueFull):
            return Refusal("overloaded", error.message, error.hint, retry_after=error.seconds)
        if isinstance(error, QueueClosed):
            return Refusal("unavailable", error.message, retry_after=5)
        if isinstance(error, TimeoutError):
            return Refusal("timeout", f"no scores within {self.service.limits.timeout:g} s")
        place = "".join(traceback.format_tb(error.__traceback__))  # the message itself may hold a text
        logger.error("request %s: %s\n%s", record.id, str(error) if self.log_texts else type(error).__name__, place)
        return Refusal("backend", "the server could not score this request")


def page_api(service: Service) -> Api:
    """The route that the page at / calls."""

    def write(call: Call, scored: Scored) -> schemas.ReplyPage:
        return both_orders(service.tokenizer(call), call, scored)

    summary = "The page at /: BM25's order beside the model's"
    return Api("/page/rank", ((schemas.RankPage, write),), schemas.ReplyPage, summary, aside=True)


def add_api(app: FastAPI, api: Api, answering: Answering) -> None:
    """Add a route that scores."""

    async def endpoint(request: Request) -> Response:
        return await answering(request, api)

    app.add_api_route(
        api.path,
        endpoint,
        methods=["POST"],
        summary=api.summary,
        description="\n\n".join(kind.__doc__ or "" for kind, _ in api.kinds),
        operation_id=api.path.strip("/").replace("/", "_"),
        response_model=api.reply,
        openapi_extra=api.body,
        responses={
            "4XX": {"description": "Refused; the body says why in this API's shape."},
            "5XX": {"description": "Failed; the body says why in this API's shape."},
        },
    )


def add_state(app: FastAPI, service: Service) -> None:
    """Add the routes that tell how the server is, and what it serves."""
    batcher = service.batcher

    def state(well: bool) -> JSONResponse:
        return JSONResponse({"status": "ok" if well else "unavailable"}, 200 if well else 503)

    @app.get("/health", summary="Whether the model works: restart the server if not")
    async def health() -> JSONResponse:
        return state(batcher.running and batcher.failures < UNHEALTHY)

    @app.get("/ready", summary="Whether requests are taken on")
    async def ready() -> JSONResponse:
        return state(batcher.running)

    @app.get("/metrics", summary="Counters in Prometheus' text format", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", summary="The model, and the most that a call may have")
    async def models() -> schemas.ReplyModels:
        return {"object": "list", "data": [service.card]}


def add_pages(app: FastAPI, folder: Path = PAGE) -> None:
    """Add the OpenAPI document for reading, and the page with its files if they are there."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    def add(path: str, file: Path) -> None:
        async def serve() -> FileResponse:
            return FileResponse(file)

        app.add_api_route(path, serve, methods=["GET"], include_in_schema=False)

    if (folder / "index.html").is_file():
        add("/", folder / "index.html")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            add(f"/{file.relative_to(folder).as_posix()}", file)


def create_app(
    service: Service, *, key: str | None = None, origins: Sequence[str] = (), log_texts: bool = False
) -> FastAPI:
    """The application around a service.

    Args:
        service: what scores.
        key: what callers must send as `Authorization: Bearer KEY`; None lets everyone in.
        origins: of pages elsewhere that may call from a browser.
        log_texts: let log lines hold queries and documents.
    """
    answering = Answering(service, log_texts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.batcher.start)
        try:
            yield
        finally:
            await asyncio.to_thread(service.batcher.close)
            answering.pool.shutdown()

    app = FastAPI(
        title="prorank",
        version=VERSION,
        description="Reranking as Cohere, Jina, text-embeddings-inference and vLLM offer it.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    for api in (*APIS, page_api(service)):
        add_api(app, api, answering)
    add_state(app, service)
    add_pages(app)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        record: Record = request.scope["prorank"]
        refusal = Refusal("wrong_method" if error.status_code == 405 else "not_found", str(error.detail))
        record.reason = refusal.reason
        response = refused(record.style, refusal)
        response.headers.update(error.headers or {})
        return response

    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Truncated-Pairs", "Retry-After"],
        )
    app.add_middleware(Edge, metrics=service.metrics, key=key)
    return app
