"""What clients put into their prompts that changes with every request and tells the model nothing, by named rules.

A rule is here only when the value is certainly no content: times, dates and working folders are content, however often
they change. Each rule can be switched off with the setting model.keep_nonces and is listed in docs/agents.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from tokenwell.chat.conversation import Message

_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*(?:\n+|\Z)")
_INBOUND = re.compile(r"\{[^{}]*\"openclaw\.inbound_meta\.v\d+\"[^{}]*\}")
_INBOUND_ID = re.compile(r"\s*\"(?:message_id|message_id_full|reply_to_id)\"\s*:\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s,}]+)\s*(,?)")


@dataclass(frozen=True)
class Rule:
    """`system` changes the text of a system or developer message, `tool` a tool; None: leaves it alone."""

    name: str
    about: str
    system: Callable[[str], str] | None = None
    tool: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def _without_billing(text: str) -> str:
    return _BILLING.sub("", text)


def _without_inbound_ids(text: str) -> str:
    return _INBOUND.sub(lambda block: _without_ids(block[0]), text) if "openclaw.inbound_meta." in text else text


def _without_ids(block: str) -> str:
    """The JSON object without these members; a comma that is left at the end goes too."""
    return re.sub(r",(\s*\})\Z", r"\1", _INBOUND_ID.sub("", block))


def _without_cache_control(tool: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in tool.items() if key != "cache_control"}
    if isinstance(function := plain.get("function"), dict) and "cache_control" in function:
        plain["function"] = {key: value for key, value in function.items() if key != "cache_control"}
    return plain


RULES = (
    Rule(
        "claude-code-billing",
        "Claude Code's first system line `x-anthropic-billing-header: …; cch=…`, a checksum of the request, is left out",
        system=_without_billing,
    ),
    Rule(
        "openclaw-message-ids",
        "OpenClaw before 2026.2.20: message ids in the system prompt's `openclaw.inbound_meta` block are left out "
        "(later versions send them with the user's message, where they stay)",
        system=_without_inbound_ids,
    ),
    Rule(
        "cache-control",
        "`cache_control` beside a tool, a hint to the server that moves from tool to tool, is left out",
        tool=_without_cache_control,
    ),
)
NAMES = tuple(rule.name for rule in RULES)


def without_nonces(messages: tuple[Message, ...], keep: Collection[str] = ()) -> tuple[Message, ...]:
    """The messages with the system rules applied but those named in `keep`; a message of nothing else is gone."""
    changes = [rule.system for rule in RULES if rule.system is not None and rule.name not in keep]
    result: list[Message] = []
    for message in messages:
        if message.role in ("system", "developer"):
            text = message.content
            for change in changes:
                text = change(text)
            if text != message.content:
                if not text:
                    continue
                message = msgspec.structs.replace(message, content=text)
        result.append(message)
    return tuple(result)


def without_hints(tool: dict[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
    """The tool with the tool rules applied but those named in `keep`."""
    for rule in RULES:
        if rule.tool is not None and rule.name not in keep:
            tool = rule.tool(tool)
    return tool
