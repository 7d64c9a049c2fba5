"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.answering import read
from tokenwell.api.errors import bad_request
from tokenwell.api.openai.conversation import make_conversation, tool_schemas
from tokenwell.api.openai.requests import DetokenizeRequest, TokenizeRequest
from tokenwell.api.sampling import check_token_ids
from tokenwell.service.gateway import Gateway

_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)


class Tokens:
    """The endpoints."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def tokenize(self, request: Request) -> Response:
        """Text or messages to token ids."""
        wanted = await read(request, self._gateway, _tokenize)
        self._gateway.catalogue.resolve(wanted.model)
        tokens = await asyncio.to_thread(self._tokens, wanted)
        answer: dict[str, object] = {
            "count": len(tokens),
            "max_model_len": self._gateway.window_tokens,
            "tokens": tokens,
        }
        if wanted.return_token_strs:
            answer["token_strs"] = [self._gateway.model.tokenizer.token_text(token) for token in tokens]
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """Token ids to text, special tokens included."""
        wanted = await read(request, self._gateway, _detokenize)
        self._gateway.catalogue.resolve(wanted.model)
        check_token_ids(wanted.tokens, self._gateway.vocab_size, "tokens")
        text = await asyncio.to_thread(self._gateway.model.tokenizer.decode, wanted.tokens, skip_special_tokens=False)
        return Response(msgspec.json.encode({"prompt": text}), media_type="application/json")

    def _tokens(self, wanted: TokenizeRequest) -> list[int]:
        model = self._gateway.model
        if (wanted.prompt is None) == (wanted.messages is None):
            raise bad_request("Send either `prompt` or `messages`.", "prompt", "invalid_value")
        if wanted.messages is None:
            assert wanted.prompt is not None
            return model.encode(wanted.prompt, add_special_tokens=wanted.add_special_tokens is not False)
        continued = bool(wanted.continue_final_message)
        asked = wanted.add_generation_prompt
        skipped: list[str] = []  # what is left out of the prompt has no tokens
        conversation = make_conversation(
            wanted.messages,
            skipped,
            tools=tool_schemas(wanted.tools, skipped),
            template_arguments=wanted.chat_template_kwargs,
            add_generation_prompt=asked if asked is not None else not continued,
            continue_final_message=continued,
        )
        return model.render(conversation).tokens
