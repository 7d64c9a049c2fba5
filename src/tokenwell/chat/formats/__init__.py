"""Chat formats: how a model marks reasoning, content and tool calls in what it generates. One file a format, one table."""

from __future__ import annotations

from tokenwell.chat.formats.format import Format
from tokenwell.chat.formats.plain import PLAIN

FORMATS: dict[str, Format] = {each.name: each for each in (PLAIN,)}
