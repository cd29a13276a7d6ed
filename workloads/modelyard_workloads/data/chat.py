"""Conversations as text: chat templates (Jinja, as tokenizers of Hugging Face carry them), rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a tenth of a second, for models that have conversations
    from jinja2 import Template

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")

DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ChatTemplateError(Exception):
    """The template is wrong, or refuses a conversation; the text says why."""


class ChatTemplate:
    """A compiled template with the tokens it may name."""

    def __init__(self, source: str, *, end_token: str, begin_token: str = "") -> None:
        """Raises ChatTemplateError for a template with an error in it."""
        from jinja2 import TemplateError

        self.source = source
        self._tokens = {"eos_token": end_token, "bos_token": begin_token}
        try:
            self._template = _compiled(source)
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template cannot be understood: {error}") from None

    def render(self, messages: Sequence[Message], *, answer_follows: bool) -> str:
        """The conversation as text; with `answer_follows`, up to where the assistant begins to speak."""
        from jinja2 import TemplateError

        try:
            return self._template.render(messages=messages, add_generation_prompt=answer_follows, **self._tokens)
        except (TemplateError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise ChatTemplateError(f"the chat template refuses the conversation: {error}") from None

    def pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The text of a conversation cut into what is read (False) and what the assistant says (True). Raises
        ChatTemplateError for a template that changes what was said before.
        """
        pieces: list[tuple[str, bool]] = []
        told = ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.render(messages[:number], answer_follows=True)
            answered = self.render(messages[: number + 1], answer_follows=False)
            if not asked.startswith(told) or not answered.startswith(asked):
                raise ChatTemplateError("the chat template changes earlier turns, so that answers cannot be told apart")
            pieces += [(asked[len(told) :], False), (answered[len(asked) :], True)]
            told = answered
        return pieces


def check_messages(value: Any) -> list[Message]:
    """A conversation from a row. Raises ValueError that says what is wrong: an answer must be in it."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of messages {role, content}")
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {number + 1} must be an object with role and content")
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number + 1} has role {message.get('role')!r}, expected {', '.join(ROLES)}")
    if not any(message["role"] == "assistant" for message in value):
        raise ValueError("has no message of the assistant, so there is nothing to learn")
    return value


@cache
def _compiled(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
