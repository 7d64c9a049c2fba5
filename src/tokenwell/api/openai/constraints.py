"""What a request wants its answer's text held to."""

from __future__ import annotations

from tokenwell.api.errors import bad_request
from tokenwell.api.openai.requests import GenerationFields

_UNSUPPORTED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")


def refuse_unsupported(request: GenerationFields) -> None:
    """Raise ApiError 400 for constraints that would otherwise be silently ignored."""
    wanted = request.response_format
    if wanted is not None and wanted.type != "text":
        known = wanted.type in ("json_object", "json_schema")
        raise bad_request(
            f"The response format `{wanted.type}` is not supported yet; use `text`."
            if known
            else f"Unknown response format `{wanted.type[:40]}`; use `text`.",
            "response_format.type",
            "unsupported_value",
        )
    for name in _UNSUPPORTED:
        if getattr(request, name) is not None:
            raise bad_request(f"`{name}` is not supported yet.", name, "unsupported_parameter")
    if request.prompt_logprobs is not None and request.stream:
        raise bad_request("`prompt_logprobs` cannot be streamed.", "prompt_logprobs", "invalid_value")
