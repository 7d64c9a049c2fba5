"""Chat formats: how a model marks reasoning, content and tool calls in what it generates. One file a format, one table."""

from __future__ import annotations

from tokenwell.chat.formats.deepseek import DEEPSEEK
from tokenwell.chat.formats.format import Format
from tokenwell.chat.formats.gemma4 import GEMMA4
from tokenwell.chat.formats.harmony import HARMONY
from tokenwell.chat.formats.hermes import HERMES
from tokenwell.chat.formats.llama3 import LLAMA3
from tokenwell.chat.formats.mistral import MISTRAL
from tokenwell.chat.formats.plain import PLAIN
from tokenwell.chat.formats.qwen_xml import QWEN_XML

# In the order in which their signs are looked for.
FORMATS: dict[str, Format] = {each.name: each for each in (GEMMA4, HARMONY, DEEPSEEK, MISTRAL, QWEN_XML, HERMES, LLAMA3, PLAIN)}
