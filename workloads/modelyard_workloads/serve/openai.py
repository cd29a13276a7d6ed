"""Adapter: OpenAI's API for language models, at /v1 and at /openai/v1 (KServe's prefix).

Completions, chat completions, models and embeddings; streams are server-sent events that end with [DONE].
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from secrets import token_hex
from time import monotonic, time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard_workloads.data.chat import ChatTemplateError
from modelyard_workloads.serve import openai_replies as replies
from modelyard_workloads.serve import v2_codec
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.errors import NotReady, ServeError
from modelyard_workloads.serve.generation.service import Ask, Generation, GenerationService
from modelyard_workloads.serve.http import Bodies, JsonReply, compressed, unless_gone
from modelyard_workloads.serve.openai_embeddings import embeddings
from modelyard_workloads.serve.openai_forms import ChatForm, CompletionForm, Form
from modelyard_workloads.serve.openai_replies import Head
from modelyard_workloads.serve.openai_schema import (
    COMPLETION_TOKENS,
    BadRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    SamplingFields,
    parse,
)
from modelyard_workloads.serve.sse import EventStream, event

PREFIXES = ("/v1", "/openai/v1")
_DONE = event(b"[DONE]")

Handler = Callable[[Request], Awaitable[Response]]


class OpenAIAdapter:
    """The routes below both prefixes. `seconds`: the time a request may take, body included."""

    def __init__(self, plane: DataPlane, bodies: Bodies, seconds: float) -> None:
        self._plane = plane
        self._bodies = bodies
        self._seconds = seconds
        self._created = int(time())

    def routes(self) -> list[Route]:
        """Every route; /v1/models is the v1 protocol's too, which answers for both."""
        found = []
        for prefix in PREFIXES:
            for path, handler, name in (
                ("chat/completions", self.chat, "chat_completions"),
                ("completions", self.completions, "completions"),
                ("embeddings", self.embed, "embeddings"),
            ):
                found.append(Route(f"{prefix}/{path}", _guarded(handler), methods=["POST"], name=name))
        found.append(Route("/openai/v1/models", _guarded(self.models), name="models"))
        found.append(Route("/openai/v1/models/{model}", _guarded(self.model), name="model"))
        return found

    async def models(self, _: Request) -> Response:
        """The list of the one model."""
        return JsonReply({"object": "list", "data": [replies.model_card(self._plane.name, self._created)]})

    async def model(self, request: Request) -> Response:
        """The one model."""
        name = request.path_params["model"]
        self._plane.check_name(name)
        return JsonReply(replies.model_card(name, self._created))

    async def completions(self, request: Request) -> Response:
        """Text or tokens go on."""
        deadline = monotonic() + self._seconds
        asked = parse(CompletionRequest, await self._document(request))
        service = self._service(asked.model)
        language = service.language
        prompts: list[tuple[str | None, list[int]]] = []
        service.check_room(len(asked.prompts) * asked.choices)
        for prompt in asked.prompts:
            if isinstance(prompt, str):
                tokens = await language.encode(prompt, add_special=asked.add_special_tokens is not False)
                prompts.append((prompt, tokens))
                await asyncio.sleep(0)  # many quick prompts are not quick together
            else:
                prompts.append((None, prompt))
        echo = bool(asked.echo)
        asks = _asks(
            asked,
            service,
            [tokens for _, tokens in prompts],
            COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens,
            logprobs=asked.logprobs,
            prompt_logprobs=asked.logprobs if echo else None,
        )
        head = Head.now(f"cmpl-{token_hex(12)}", "text_completion", self._plane.name)
        generation = service.open(asks, deadline)
        texts = [text if text is not None else language.codec.decode(tokens) for text, tokens in prompts]
        form = CompletionForm(
            head, language.codec, generation.sequences, asked.logprobs, texts if echo else [], asked.choices
        )
        return await self._answer(request, generation, form, asked)

    async def chat(self, request: Request) -> Response:
        """The next turn of a conversation."""
        deadline = monotonic() + self._seconds
        asked = parse(ChatRequest, await self._document(request))
        service = self._service(asked.model)
        language = service.language
        try:
            text = language.conversation(
                [message.plain() for message in asked.messages],
                answer_follows=asked.add_generation_prompt is not False,
            )
        except ChatTemplateError as error:
            raise BadRequest(f"messages: {error}", "messages") from None
        # Templates write the special tokens themselves.
        prompt = await language.encode(text, add_special=bool(asked.add_special_tokens))
        room = max(service.limits.max_length - len(prompt), 1)
        asked_for = (asked.max_completion_tokens, asked.max_tokens)
        limit = next((most for most in asked_for if most is not None), room)
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        asks = _asks(asked, service, [prompt], limit, logprobs=logprobs)
        head = Head.now(f"chatcmpl-{token_hex(12)}", "chat.completion", self._plane.name)
        generation = service.open(asks, deadline)
        form = ChatForm(head, language.codec, generation.sequences, logprobs is not None)
        return await self._answer(request, generation, form, asked)

    async def embed(self, request: Request) -> Response:
        """Texts as vectors, for models that give them."""
        deadline = monotonic() + self._seconds
        asked = parse(EmbeddingRequest, await self._document(request))
        return await unless_gone(request.receive, embeddings(self._plane, asked, deadline))

    async def _document(self, request: Request) -> Any:
        if not self._plane.ready and self._plane.state != "READY":
            raise NotReady(f"the model is not ready: {self._plane.why_not_ready}")
        with self._bodies.open() as intake:
            body = await intake.read(request.headers, request.receive, lambda: None, self._seconds)
            return v2_codec.load_json(body)

    def _service(self, model: str) -> GenerationService:
        loaded = self._plane.model(model)
        if loaded.generation is None:
            raise BadRequest(
                f"model '{model}' does not generate text, its task is {loaded.runtime.task};"
                f" ask it at /v2/models/{model}/infer",
                "model",
            )
        return loaded.generation

    async def _answer(self, request: Request, generation: Generation, form: Form, asked: SamplingFields) -> Response:
        if asked.stream:
            return EventStream(_events(generation, form, asked))
        with generation:
            whole = await unless_gone(request.receive, _collect(generation, form))
        return compressed(JsonReply(whole), request.headers.get("accept-encoding"))


def _asks(
    asked: SamplingFields, service: GenerationService, prompts: list[list[int]], max_tokens: int, **more: Any
) -> list[Ask]:
    """A sequence for each choice of each prompt, the choices of one prompt together."""
    language, seed = service.language, asked.first_seed()
    samplings = [
        asked.sampling(choice, seed, max_tokens=max_tokens, ends=language.ends, vocabulary=language.vocabulary, **more)
        for choice in range(asked.choices)
    ]
    return [(tokens, sampling) for tokens in prompts for sampling in samplings]


async def _collect(generation: Generation, form: Form) -> dict[str, Any]:
    async for arrived in generation:
        for index, piece in arrived:
            form.keep(index, piece)
    return form.whole()


async def _events(generation: Generation, form: Form, asked: SamplingFields) -> AsyncGenerator[bytes]:
    usage = {"usage": None} if asked.include_usage else {}
    with generation:
        try:
            async for arrived in generation:
                for choices in form.chunks(arrived):
                    yield event(replies.encoded(form.head.chunk([choices]) | usage))
        except ServeError as error:
            # The status is sent already: clients look for `error` in the events.
            yield event(replies.encoded(replies.error_body(error)))
            return
    if asked.include_usage:
        yield event(replies.encoded(form.head.chunk([]) | {"usage": form.usage()}))
    yield _DONE


def _guarded(handler: Handler) -> Handler:
    """The handler with its errors in OpenAI's form."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ServeError as error:
            return replies.error_reply(error)

    return answer
