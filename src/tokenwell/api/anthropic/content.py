"""The text of content blocks: of the system prompt, of user messages, tool results and documents. Knows no order of messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tokenwell.api.anthropic.requests import Block
from tokenwell.api.errors import ApiError, bad_request
from tokenwell.chat.conversation import NO_MEDIA


def text_of(content: str | Sequence[Block], path: str) -> str:
    """Blocks as one text, a line break between, as in the other dialects. Raises ApiError 400 for a block that is none."""
    if isinstance(content, str):
        return content
    return "\n".join(block_text(block, f"{path}[{index}]") for index, block in enumerate(content))


def block_text(block: Block, path: str) -> str:
    """One block's text. Raises ApiError 400 when it is empty or has none."""
    if block.type == "text":
        if block.text is None:
            raise bad_request(f"`{path}` has the type `text` but no text.", f"{path}.text", "missing_field")
        if not block.text:
            raise bad_request(f"`{path}.text`: text content blocks must be non-empty.", f"{path}.text", "invalid_value")
        return block.text
    if block.type == "document":
        return _document(block, path)
    if block.type == "search_result":
        inner = text_of(blocks_of(block.content, f"{path}.content"), f"{path}.content")
        origin = block.source if isinstance(block.source, str) else None
        return "\n".join(part for part in (block.title, origin, inner) if part)
    raise unreadable(block.type, path)


def result_text(block: Block, path: str, warnings: list[str]) -> str:
    """What a tool said. An image beside text is left out with a note to the model and a warning; alone it is a 400."""
    place = f"{path}.content"
    parts = [] if block.content is None else blocks_of(block.content, place)
    if isinstance(parts, str):
        text = parts
    else:
        shown = [part for part in parts if part.type != "image"]
        if len(shown) < len(parts):
            if not any(part.text for part in shown):
                raise unreadable("image", place)
            warnings.append(f"{place}: images were left out, this model reads text only")
        text = "\n".join(
            NO_MEDIA if part.type == "image" else _result_part(part, f"{place}[{index}]") for index, part in enumerate(parts)
        )
    # Templates have no field for failure; without the word a model may take the message for a result.
    return f"Error: {text}" if block.is_error and not text.lower().startswith("error") else text


def blocks_of(content: Any, path: str) -> str | list[Block]:
    """Untyped content as text or blocks. Raises ApiError 400."""
    try:
        return msgspec.convert(content, str | list[Block])
    except msgspec.ValidationError as error:
        raise bad_request(f"Invalid value for `{path}`: {error}.", path, "invalid_value") from error


def unreadable(kind: str, path: str) -> ApiError:
    """The refusal of a block without text."""
    return bad_request(f"This model takes text only; `{path}` has the type `{kind[:40]}`.", path, "unsupported_content")


def _result_part(part: Block, path: str) -> str:
    if part.type == "text":
        return part.text or ""  # programs print empty lines and nothing at all
    if part.type == "tool_reference":
        return part.tool_name or ""
    return block_text(part, path)


def _document(block: Block, path: str) -> str:
    """A document with plain text in it, its title and context in front."""
    source = block.source if isinstance(block.source, dict) else {}
    kind, place = source.get("type"), f"{path}.source"
    if kind == "text" and isinstance(source.get("data"), str):
        text = source["data"]
    elif kind == "content":
        text = text_of(blocks_of(source.get("content"), f"{place}.content"), f"{place}.content")
    else:
        raise bad_request(
            f"This model takes text only; `{place}` must have the type `text` with `data`, or `content`.",
            place,
            "unsupported_content",
        )
    return "\n".join(part for part in (block.title, block.context, text) if part)
