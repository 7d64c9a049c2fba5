"""The format without marks: everything that a model generates is content."""

from __future__ import annotations

from tokenwell.chat.formats.format import Format

PLAIN = Format(name="plain")
