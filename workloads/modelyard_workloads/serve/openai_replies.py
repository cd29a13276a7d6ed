"""OpenAI's answers: completions, chat completions and their chunks, log-probabilities, usage, errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

import orjson
from starlette.responses import Response

from modelyard_workloads.serve import errors
from modelyard_workloads.serve.generation.sequences import Piece, TokenLogprobs
from modelyard_workloads.serve.generation.text import TextCodec
from modelyard_workloads.serve.http import STATUS, JsonReply
from modelyard_workloads.serve.openai_schema import BadRequest

# OpenAI's words, and where its status differs from ours: its clients wait and try again after 429.
_KINDS: dict[type[errors.ServeError], tuple[int | None, str, str | None]] = {
    BadRequest: (400, "invalid_request_error", None),
    errors.InvalidInput: (None, "invalid_request_error", None),
    errors.NotFound: (None, "invalid_request_error", "model_not_found"),
    errors.BodyTimeout: (None, "invalid_request_error", None),
    errors.PayloadTooLarge: (None, "invalid_request_error", None),
    errors.UnsupportedMedia: (None, "invalid_request_error", None),
    errors.Saturated: (429, "rate_limit_error", "queue_full"),
    errors.NotReady: (None, "server_error", "model_not_ready"),
    errors.DeadlineExceeded: (None, "server_error", "timeout"),
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What every object of one reply begins with."""

    id: str
    kind: str  # "text_completion" | "chat.completion"
    model: str
    created: int

    @classmethod
    def now(cls, identity: str, kind: str, model: str) -> Head:
        """Created in this second."""
        return cls(id=identity, kind=kind, model=model, created=int(time()))

    def reply(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, int]) -> dict[str, Any]:
        """The whole reply."""
        return self._object(self.kind, choices) | {"usage": usage}

    def chunk(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A piece of a stream."""
        return self._object("text_completion" if self.kind == "text_completion" else f"{self.kind}.chunk", choices)

    def _object(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_card(name: str, created: int) -> dict[str, Any]:
    """An entry of the list of models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "modelyard"}


def error_body(error: errors.ServeError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    _, kind, code = _KINDS.get(type(error), (None, "server_error", None))
    param = error.param if isinstance(error, BadRequest) else None
    code = (error.code if isinstance(error, BadRequest) else None) or code
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def error_reply(error: errors.ServeError) -> Response:
    """The error with its status, and when to try again."""
    ours, retry_after = STATUS.get(type(error), (500, None))
    status = _KINDS.get(type(error), (None,))[0] or ours
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    if isinstance(error, errors.BodyTimeout | errors.PayloadTooLarge):
        headers["Connection"] = "close"  # the rest of the body may still come
    return JsonReply(error_body(error), status_code=status, headers=headers)


class CompletionLogprobs:
    """The `logprobs` of a completion: parallel lists. The offsets go on over the chunks of a stream."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._offset = 0

    def of(self, entries: Iterable[TokenLogprobs | int]) -> dict[str, Any]:
        """Of these places; a bare token is one that nothing predicts: the first of a prompt."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            known = isinstance(entry, TokenLogprobs)
            token = self._codec.piece(entry.token if isinstance(entry, TokenLogprobs) else entry)
            found["tokens"].append(token)
            found["token_logprobs"].append(entry.logprob if isinstance(entry, TokenLogprobs) else None)
            found["top_logprobs"].append(self._top(entry) if isinstance(entry, TokenLogprobs) and known else None)
            found["text_offset"].append(self._offset)
            self._offset += len(token)
        return found

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """By text; of two tokens with the same text the more probable one is named."""
        named: dict[str, float] = {}
        for token, logprob in (*entry.top, (entry.token, entry.logprob)):
            named.setdefault(self._codec.piece(token), logprob)
        return named


def chat_logprobs(codec: TextCodec, pieces: Iterable[Piece]) -> dict[str, Any]:
    """The `logprobs` of a chat completion."""

    def described(token: int, logprob: float) -> dict[str, Any]:
        return {"token": codec.piece(token), "logprob": logprob, "bytes": list(codec.bytes_of(token))}

    content = [
        described(entry.token, entry.logprob) | {"top_logprobs": [described(*each) for each in entry.top]}
        for entry in (piece.logprobs for piece in pieces)
        if entry is not None
    ]
    return {"content": content, "refusal": None}


def encoded(document: Mapping[str, Any]) -> bytes:
    """JSON."""
    return orjson.dumps(document)
