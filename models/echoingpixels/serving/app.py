"""The application: endpoints in the format of OpenAI's API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from .. import __version__
from ..display.view import ClipView
from ..errors import EpError, InternalError
from .backend import Backend, Checker
from .bodies import ChatRequest, refusal
from .chatting import AskRequest, Gone, ServedQuestion, Stream, ViewRequest, head_of, unless_gone
from .files import FileStore
from .guards import Guard, answer_of, refused_of
from .media import Found, Reference
from .messages import ask_options, check_options, media_options, messages_of
from .pages import add_page
from .refusals import Refused, of_error
from .replies import Completion, Deleted, ErrorBody, FileObject, Head, Health, ModelCard, Models
from .settings import Settings

SWEEP_S = 60.0  # between two searches for expired uploads
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": what}
    for status, what in (
        (400, "The body is not readable, or a clip is not."),
        (401, "The API key is missing or wrong."),
        (403, "The request came from a page of another site."),
        (404, "There is no such model or file."),
        (413, "The body is too large."),
        (422, "A field is not supported, or has a value that is not."),
        (429, "The queue is full."),
        (500, "The answer failed."),
        (503, "The model is loading, or the server is shutting down."),
    )
}
Purpose = Annotated[str, Form(max_length=64, description="Of no effect.")]
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


class Application:
    """The endpoints of one server. `admit`: a new question with its place in the queue, or Refused."""

    def __init__(
        self, settings: Settings, engine: Backend, clips: Checker, files: FileStore, admit: Callable[[], ServedQuestion]
    ) -> None:
        self.settings, self.engine, self.clips, self.files, self.admit = settings, engine, clips, files, admit
        self.made = int(time.time())

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer a question about clips, after the messages before it."""
        try:
            question, head, work = self._admitted(body, request)
        except Refused:
            self.engine.metrics.requests.labels("refused").inc()
            raise
        streaming = False
        try:
            await unless_gone(request, work)
            if body.stream:
                first = await unless_gone(request, question.event())
                streaming = True
                return Stream(question, first, head)
            answer = await unless_gone(request, question.answer())
            return JSONResponse(head.completion(answer, question.cached, question.kept).model_dump())
        except Refused as error:
            question.refuse(error)
            raise
        except Gone:
            return Response(status_code=499)  # nobody reads it
        finally:
            if not streaming:
                question.close()

    def _admitted(self, body: ChatRequest, request: Request) -> tuple[ServedQuestion, Head, Coroutine[Any, Any, None]]:
        """The question with its place in the queue, the identity of its answer, and its preparation. Or Refused."""
        settings, model = self.settings, self.engine.model
        if body.model != settings.model:
            message = f"There is no model {body.model!r}. This server has {settings.model}."
            raise Refused(404, message, param="model", code="model_not_found")
        asked = AskRequest(
            messages_of(body, settings),
            media_options(body, settings),
            ask_options(body, settings),
            owner_of(request),
            bool(body.kept),
        )
        check_options(model, asked.options)
        head = head_of(settings.model, bool(body.stream_options and body.stream_options.include_usage))
        question = self.admit()
        return question, head, question.ask(asked)

    async def upload(self, file: UploadFile) -> FileObject:
        """Store a clip, so that questions can name it by its id."""
        upload = await run_in_threadpool(self.files.put, file.file)
        try:
            await asyncio.wrap_future(self.clips.check(Found(upload.path, "", "The file")))
        except EpError as error:
            if upload.new:  # else it was good before
                await run_in_threadpool(upload.path.unlink, missing_ok=True)
            raise of_error(error) from None
        return FileObject.of(upload)

    async def view(self, file_id: str, request: Request) -> Response:
        """Encode an uploaded clip, and return its picture. It takes a place in the queue, as a question does."""
        await run_in_threadpool(self.files.get, file_id)
        question = self.admit()
        try:
            work = question.view(ViewRequest(Reference(file_id), self.settings.read, owner_of(request)))
            view = await unless_gone(request, work)
            content = await run_in_threadpool(lambda: json.dumps(asdict(view), separators=(",", ":")))
            return Response(content, media_type="application/json")
        except Refused as error:
            question.refuse(error)
            raise
        except Gone:
            return Response(status_code=499)
        finally:
            question.close()

    @property
    def card(self) -> ModelCard:
        """The model for clients."""
        ask = self.settings.ask
        return ModelCard(id=self.settings.model, created=self.made, reducer=ask.reducer, keep=ask.keep)

    async def sweep(self) -> None:
        """Delete expired uploads now and then."""
        while True:
            await run_in_threadpool(self.files.sweep)
            await asyncio.sleep(SWEEP_S)


def owner_of(request: Request) -> str:
    """Whose names the uuids of a request are."""
    return str(request.scope.get("ep.owner", ""))


def create_app(
    settings: Settings, engine: Backend, clips: Checker, files: FileStore, admit: Callable[[], ServedQuestion]
) -> Guard:
    """The ASGI application of a server, whose engine is started by the caller."""
    own = Application(settings, engine, clips, files, admit)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(own.sweep())
        yield
        sweeper.cancel()

    app = FastAPI(
        title="ep",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=ERRORS,
    )
    _handle_errors(app)
    _add_chat(app, own)
    _add_files(app, own)
    _add_facts(app, own)
    add_page(app)
    return Guard(app, settings)


def _handle_errors(app: FastAPI) -> None:
    """Every error has a body of one shape."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return answer_of(error)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer_of(refusal(error.errors()))

    async def framework(_: Request, error: Exception) -> Response:
        return answer_of(refused_of(error))

    async def unexpected(_: Request, error: Exception) -> Response:
        return answer_of(of_error(InternalError(f"The request failed: {type(error).__name__}.", "Please report it.")))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, unexpected)


def _add_chat(app: FastAPI, own: Application) -> None:
    described: dict[int | str, dict[str, Any]] = {
        200: {"content": EVENTS, "description": "The answer; with `stream`, server-sent events."}
    }

    @app.post("/v1/chat/completions", response_model=Completion, responses=described)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a question about video, audio and images."""
        return await own.chat(body, request)

    @app.get("/v1/models")
    async def models() -> Models:
        """The model that answers."""
        return Models(data=[own.card])

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """The model that answers, by name."""
        if model != own.settings.model:
            raise Refused(404, "There is no such model.", param="model", code="model_not_found")
        return own.card


def _add_files(app: FastAPI, own: Application) -> None:
    @app.post("/v1/files")
    async def upload(file: Annotated[UploadFile, File()], purpose: Purpose = "") -> FileObject:
        """Upload a clip, and get the id for `{"url": "file-…"}`."""
        return await own.upload(file)

    @app.get("/v1/files/{file_id}")
    async def retrieve(file_id: str) -> FileObject:
        """An uploaded clip."""
        return FileObject.of(await run_in_threadpool(own.files.get, file_id))

    @app.get("/v1/files/{file_id}/view", response_model=ClipView)
    async def view(file_id: str, request: Request) -> Response:
        """An uploaded clip for display: frames, sound and spectrogram in base64, and the grid of its tokens."""
        return await own.view(file_id, request)

    @app.delete("/v1/files/{file_id}")
    async def delete(file_id: str) -> Deleted:
        """Delete an uploaded clip."""
        await run_in_threadpool(own.files.delete, file_id)
        return Deleted(id=file_id)


def _add_facts(app: FastAPI, own: Application) -> None:
    @app.get("/health", responses={503: {"model": Health}})
    async def health() -> Response:
        """Whether the server is ready to answer."""
        state = own.engine.state
        return JSONResponse(Health(status=state).model_dump(), 200 if state == "ready" else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """The figures of the server, for Prometheus."""
        figures = await run_in_threadpool(own.engine.metrics.text)
        return Response(figures, media_type="text/plain; version=0.0.4; charset=utf-8")
