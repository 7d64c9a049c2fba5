"""The format without marks: everything that a model generates is content."""

from __future__ import annotations

from tokenwell.chat.events import Content
from tokenwell.chat.formats.format import Format

PLAIN = Format(name="plain", start="content", states={"content": Content})
