"""Contents made of parts, as both OpenAI dialects send them, to text. Knows no roles."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tokenwell.api.errors import ApiError, bad_request
from tokenwell.chat.conversation import NO_MEDIA

_TEXTS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})


class Part(msgspec.Struct):
    """One part of a message, of a thought or of a tool's output. Parts that are not text are told apart by `type`."""

    type: str
    text: str | None = None
    refusal: str | None = None


def text_of(content: str | Sequence[Part] | None, path: str, warnings: list[str] | None = None) -> str:
    """The text. Raises ApiError 400 for other media; with `warnings`, media beside text become a note for the model.

    A line break goes between parts, as in vLLM and llama.cpp: agents send separate blocks, not halves of a sentence.
    """
    if content is None or isinstance(content, str):
        return content or ""
    lenient = warnings if any(part.text for part in content) else None
    return "\n".join(_text(part, f"{path}[{index}]", lenient) for index, part in enumerate(content))


def _text(part: Part, path: str, warnings: list[str] | None) -> str:
    readable = part.type in _TEXTS or part.type == "refusal"
    text = part.refusal if part.type == "refusal" else part.text
    if readable and text is not None:
        return text
    if readable or warnings is None:
        raise _no_text(part, path, readable)
    warnings.append(f"{path}: a part of type `{part.type[:40]}` was left out, this model reads text only")
    return NO_MEDIA


def _no_text(part: Part, path: str, readable: bool) -> ApiError:
    if readable:
        return bad_request(f"`{path}` has the type `{part.type}` but no text.", path, "missing_field")
    return bad_request(f"This model takes text only; `{path}` has the type `{part.type[:40]}`.", path, "unsupported_content")
