"""The response object around an answer's items: what was asked for, told back, and what it cost."""

from __future__ import annotations

import time
from typing import Any

from tokenwell.api.answering import cache_lost
from tokenwell.api.responses.answer import Answer, response_id
from tokenwell.api.responses.requests import CreateRequest, Json
from tokenwell.chat.model import ChatModel
from tokenwell.service.generation import Usage

_TIERS = frozenset({"auto", "default", "flex", "scale", "priority"})
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_SUMMARIES = frozenset({"auto", "concise", "detailed"})


class Envelope:
    """The part of a response object that does not change while it is made."""

    def __init__(self, wanted: CreateRequest, name: str, model: ChatModel, stores: bool) -> None:
        self._created = int(time.time())
        self._completed: int | None = None  # what is stored and what is sent must tell the same
        self._fields = _echo(wanted, name, model, stores)

    def around(self, answer: Answer, usage: Usage) -> Json:
        """The response object as it stands; usage is told once the answer has ended."""
        ended = answer.ended
        if answer.status == "completed" and self._completed is None:
            self._completed = int(time.time())
        reason = {"reason": "max_output_tokens"} if answer.status == "incomplete" else None
        return {
            "id": response_id(answer.stem),
            "object": "response",
            "created_at": self._created,
            "status": answer.status,
            "completed_at": self._completed,
            "error": answer.error,
            "incomplete_details": reason,
            "output": answer.output(),
            "usage": usage_of(usage) if ended else None,
            **self._fields,
        }


def usage_of(usage: Usage) -> Json:
    """The `usage` object."""
    return {
        "input_tokens": usage.prompt_tokens,
        # Writing to the cache is part of computing a prompt and costs nothing of its own.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0, **cache_lost(usage)},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _echo(wanted: CreateRequest, name: str, model: ChatModel, stores: bool) -> Json:
    """What the client asked for, as the dialect tells it back; values that its types do not know are left out."""
    defaults = model.defaults
    reasoning = wanted.reasoning
    summary = None if reasoning is None else reasoning.summary or reasoning.generate_summary
    effort = None if reasoning is None else reasoning.effort
    return {
        "model": name,
        "instructions": wanted.instructions,
        "previous_response_id": wanted.previous_response_id,
        "tools": [_tool(tool) for tool in wanted.tools or ()],
        "tool_choice": wanted.tool_choice if wanted.tool_choice is not None else "auto",
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "temperature": float(defaults.temperature if wanted.temperature is None else wanted.temperature),
        "top_p": float(defaults.top_p if wanted.top_p is None else wanted.top_p),
        "top_logprobs": wanted.top_logprobs or 0,
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": wanted.max_tool_calls,
        "reasoning": {
            "effort": effort if effort in _EFFORTS else None,
            "summary": summary if summary in _SUMMARIES else None,
        },
        "text": _text(wanted),
        "truncation": "disabled",
        "metadata": wanted.metadata or {},
        "store": stores,
        "background": False,
        "service_tier": wanted.service_tier if wanted.service_tier in _TIERS else "default",
        "prompt_cache_key": wanted.prompt_cache_key,
        "safety_identifier": wanted.safety_identifier,
        "user": wanted.user,
    }


def _text(wanted: CreateRequest) -> Json:
    format_: Json = {"type": "text"}
    options = wanted.text
    if options is not None and options.format is not None:
        given = options.format
        format_ = {"type": given.type}
        if given.type == "json_schema":
            format_ |= {"name": given.name or "answer", "schema": given.schema, "strict": bool(given.strict)}
    verbosity = None if options is None else options.verbosity
    return {"format": format_, "verbosity": verbosity if verbosity in ("low", "medium", "high") else None}


def _tool(tool: Json) -> dict[str, Any]:
    """A tool with the fields that the dialect's types demand."""
    if tool.get("type") == "namespace":
        return {"description": "", **tool}
    if tool.get("type") != "function":
        return tool
    inner = tool.get("function")
    flat = {"type": "function", **inner} if isinstance(inner, dict) and "name" not in tool else tool
    return {"parameters": None, "strict": None, **flat}
