"""What OpenAI's API is asked, as far as a language model of ours can answer it, with vLLM's additions.

Sources: https://platform.openai.com/docs/api-reference (completions, chat, embeddings) and vLLM's protocol classes.
A field that nobody knows is an error, as there; one that is known and would change the answer in a way that is not
supported is an error that says so; what only describes the caller is accepted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from modelyard_workloads.serve.errors import ServeError, shown
from modelyard_workloads.serve.generation.sequences import Sampling

COMPLETION_TOKENS = 16  # of an answer when nothing is said; a chat's answer may fill the context
MAX_CHOICES = 128
MAX_LOGPROBS = 20
_MAX_STOPS = 16

# About the caller, or wishes that cost nothing to ignore.
_IGNORED = {
    "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "priority", "request_id", "skip_special_tokens", "spaces_between_special_tokens",
}  # fmt: skip
# field -> the values that ask for nothing
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None,),
    "web_search_options": (None,),
    "use_beam_search": (None, False),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
}

R = TypeVar("R", bound=BaseModel)
Token = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class BadRequest(ServeError):
    """The request is wrong; `param` is the field, `code` OpenAI's word where there is one."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class StreamOptions(BaseModel):
    """Of a streamed reply."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class SamplingFields(BaseModel):
    """What completions and chat share."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: Number | None = Field(default=None, ge=0, le=100)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    # vLLM's
    top_k: int | None = Field(default=None, ge=-1)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, gt=0, le=100)
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: list[Token] | None = None
    include_stop_str_in_output: bool | None = None
    add_special_tokens: bool | None = None

    @field_validator("stop")
    @classmethod
    def _few_and_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
        strings = [stop] if isinstance(stop, str) else stop or []
        if len(strings) > _MAX_STOPS or not all(strings):
            raise ValueError(f"must be at most {_MAX_STOPS} strings, none of them empty")
        return stop

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self

    @property
    def choices(self) -> int:
        """Answers a prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Does a stream end with the token counts?"""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(
        self, choice: int, seed: int, *, max_tokens: int, ends: frozenset[int], vocabulary: int, **more: Any
    ) -> Sampling:
        """Of one choice; `ends`: the tokens that end a text. Raises BadRequest for tokens that there are not."""
        stops = {*(self.stop_token_ids or ()), *(() if self.ignore_eos else ends)}
        for name, tokens in (("logit_bias", self.logit_bias or ()), ("stop_token_ids", self.stop_token_ids or ())):
            if wrong := [token for token in tokens if not 0 <= token < vocabulary]:
                raise BadRequest(f"{name}: {wrong[0]} is no token of this model; they are 0 to {vocabulary - 1}", name)
        return Sampling(
            max_tokens=max_tokens,
            # Choices of one request are as different as if they were asked for one by one.
            seed=(seed + choice * 0x9E3779B97F4A7C15) % 2**64,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(self.top_k or 0, 0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            logit_bias=self.logit_bias or {},
            min_tokens=self.min_tokens or 0,
            stop_tokens=frozenset(stops),
            stop_strings=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            include_stop=bool(self.include_stop_str_in_output),
            **more,
        )

    def first_seed(self) -> int:
        """The one that was asked for, else any."""
        return secrets.randbits(64) if self.seed is None else self.seed


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)

    @model_validator(mode="after")
    def _no_better_ones(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of is not supported; ask for n choices and choose by their logprobs")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or more, each a text or tokens. Raises BadRequest for none."""
        return _one_or_more("prompt", self.prompt)


class Part(BaseModel):
    """A piece of a message's content; only text can be read."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: str = Field(max_length=64)
    content: str | list[Part] | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates want it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content or ())
        return {"role": self.role, "content": text}


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _alternatives_of_something(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    input: str | list[str] | list[Token] | list[list[Token]]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def inputs(self) -> list[str | list[int]]:
        """One or more, each a text or tokens. Raises BadRequest for none."""
        return _one_or_more("input", self.input)


def parse(kind: type[R], document: Any) -> R:
    """The request. Raises BadRequest that names every field that is wrong."""
    if not isinstance(document, Mapping):
        raise BadRequest("the body must be a JSON object")
    fields = {name: value for name, value in document.items() if name not in _IGNORED}
    for name, harmless in _UNSUPPORTED.items():
        if name in fields and fields.pop(name) not in harmless:
            raise BadRequest(f"{name} is not supported by this server; leave it out", str(name))
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        issues = [_issue(issue["loc"], issue["msg"], issue["type"]) for issue in error.errors(include_url=False)]
        first = error.errors()[0]["loc"]
        raise BadRequest("; ".join(dict.fromkeys(issues)), str(first[0]) if first else None) from None


def _issue(place: tuple[int | str, ...], message: str, kind: str) -> str:
    # The names of union members stand in the place too; the field and its index are what a caller knows.
    name = ".".join(str(part) for part in place[:2] if isinstance(part, int) or str(part).isidentifier())
    if kind == "extra_forbidden":
        return f"unrecognized request argument: {shown(name)}"
    return f"{name}: {message}" if name else message


def _one_or_more(name: str, value: Any) -> list[str | list[int]]:
    if isinstance(value, str) or (value and isinstance(value[0], int)):
        return [value]
    if not value:
        raise BadRequest(f"{name}: write a text, a list of texts, a list of tokens or a list of those", name)
    return list(value)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
