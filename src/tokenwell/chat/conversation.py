"""A conversation without any dialect: what every API translates into, and what templates are rendered from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]

NO_MEDIA = "[image: not shown, this model reads text only]"  # what the model reads where a tool's result had an image


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the assistant made. `arguments` is the JSON text as the client sent it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One message. Text parts are already joined; other media arrive with the issue that supports them."""

    role: Role
    content: str = ""
    reasoning: str | None = None  # past thinking, replayed exactly as generated
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether the answer may or must call tools, and which."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()  # only these may be called; empty: all


class OutputFormat(msgspec.Struct, frozen=True):
    """What the text of the answer must look like. `value` is a JSON schema, strings to choose from, a regex or a Lark grammar."""

    kind: Literal["json_object", "json_schema", "choice", "regex", "grammar"]
    value: Any = None
    param: str = "response_format"  # the request's field, for error messages


class Conversation(msgspec.Struct, frozen=True):
    """What is rendered into a prompt, and what its answer may be."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()  # as {"type": "function", "function": {name, description, parameters}}
    tool_fields: tuple[str, ...] = ()  # where in the request each tool's schema is, for error messages
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    output: OutputFormat | None = None
    template_arguments: dict[str, Any] = {}  # extra template variables (chat_template_kwargs)
    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the last assistant message is left open and continued


class Check(msgspec.Struct, frozen=True):
    """A schema that the arguments of a tool's calls must fit, or the content (`tool` None)."""

    tool: str | None
    schema: str  # its JSON text
    where: str  # the request's field


class Prompt(msgspec.Struct, frozen=True):
    """A rendered conversation, and how its answer is held to what was asked for and read."""

    conversation: Conversation  # in its canonical spelling
    text: str
    tokens: list[int]
    continues: bool = False  # the answer goes on inside the last message instead of starting a new one
    tools: tuple[dict[str, Any], ...] = ()  # calls are read only when there are tools
    reasoning: bool = False  # the answer starts inside reasoning that the prompt opened
    grammar: str | None = None  # llguidance grammar of the whole answer, reasoning included; None: free
    warnings: tuple[str, ...] = ()  # what the grammar could not be made to say, in words for the client
    checks: tuple[Check, ...] = ()  # for what the grammar does not say: see grammar.checks.violations


class ChatError(Exception):
    """The conversation cannot be rendered; the message may be shown to the client (a 400, never a 500).

    `param` is the request's field at fault, if one is.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
