"""A conversation to the text that the model reads: turns, repairs, template, and the open last message.

The same conversation gives the same text (templates that print the date: on the same day). Knows no tokens.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tokenwell.chat.abilities import Abilities, attempts, probe
from tokenwell.chat.conversation import ChatError, Conversation
from tokenwell.chat.literal import Breaker
from tokenwell.chat.repairs import TOOLS_AS_TEXT, apply
from tokenwell.chat.sandbox import RenderError
from tokenwell.chat.schemas import narrow_tool
from tokenwell.chat.template import Template, Turn
from tokenwell.chat.turns import transcript, turns_of
from tokenwell.wire.messages import Choice

_log = logging.getLogger(__name__)

_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt")
_PATIENCE_S = 5.0  # for all attempts at one conversation together


class Renderer:
    """Renders with one template, or plainly without one."""

    def __init__(self, template: Template | None, variables: Mapping[str, Any], breaker: Breaker | None = None) -> None:
        """`variables`: the special tokens by name, which templates print. `breaker`: keeps clients' texts from being tokens."""
        self.breaker = breaker or Breaker(())
        self._template = template
        self._variables = dict(variables)
        self.abilities = probe(template, variables) if template else Abilities(repairs=(TOOLS_AS_TEXT,))
        self._told: set[str] = set()

    def render(self, conversation: Conversation) -> str:
        """The text. Raises ChatError with a sentence for the client when the conversation cannot be rendered."""
        return "".join(self.pieces(conversation))

    def pieces(self, conversation: Conversation) -> list[str]:
        """The text cut where a client's text spells a special token, inside the spelling. Raises ChatError like `render`."""
        if not conversation.messages:
            raise ChatError("There are no messages; send at least one.")
        for name in _OWN_VARIABLES:
            if name in conversation.template_arguments:
                raise ChatError(f"chat_template_kwargs cannot set {name!r}; it follows from the request's own fields.")
        turns, tools, sign = self.breaker.broken(turns_of(conversation.messages), list(conversation.tools))
        if sign:
            conversation = msgspec.structs.replace(conversation, tools=tuple(tools))
        if conversation.continue_final_message:
            text = self._open_text(turns, conversation)
        else:
            text = self._text(turns, conversation, conversation.add_generation_prompt)
        if not sign:
            return [text]
        # Templates that write JSON in ASCII escape the character.
        return text.replace(f"\\u{ord(sign):04x}", sign).split(sign)

    def _open_text(self, turns: list[Turn], conversation: Conversation) -> str:
        """The text up to the end of the last message's content: a mark is rendered behind it, and everything from it is cut."""
        last = turns[-1]
        if last["role"] != "assistant" or "tool_calls" in last:
            raise ChatError("continue_final_message needs a last message of the assistant's without tool calls.")
        number = 0
        while (mark := f"<<open-{number}>>") in str(turns) + str(conversation.tools):
            number += 1
        # The space shows whether the template trims contents: then the content's own trailing space goes too.
        text = self._text([*turns[:-1], last | {"content": f"{last['content']}{mark} "}], conversation, False)
        place = text.rfind(mark)
        if place < 0:
            raise ChatError("The chat template does not render the last message's content, so it cannot be continued.")
        before = text[:place]
        return before if text.startswith(f"{mark} ", place) else before.rstrip()

    def _text(self, turns: list[Turn], conversation: Conversation, add_generation_prompt: bool) -> str:
        if self._template is None:
            return transcript(apply(turns, self.abilities.repairs), add_generation_prompt)
        variables = self._variables | conversation.template_arguments
        tools: Sequence[Mapping[str, Any]] = conversation.tools
        deadline = time.monotonic() + _PATIENCE_S
        refusal: RenderError | None = None
        for attempt, extra in attempts(turns, self.abilities.repairs):
            try:
                text = self._template.render(attempt, tools, variables, add_generation_prompt)
            except RenderError as error:
                if refusal is None and (narrower := self._narrower(self._template, tools, variables)):
                    tools = narrower
                    with contextlib.suppress(RenderError):
                        return self._template.render(attempt, tools, variables, add_generation_prompt)
                refusal = refusal or error
                if time.monotonic() > deadline:
                    break
            else:
                self._tell("; ".join(repair.name for repair in extra))
                return text
        assert refusal is not None
        raise refusal

    def _narrower(
        self, template: Template, tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> list[dict[str, Any]] | None:
        """Narrow tools when it is the tools that the template refuses. Depends on the tools alone, as the cached prefix does."""
        if not tools:
            return None
        turns = [{"role": "user", "content": "probe"}]
        try:
            template.render(turns, tools, variables, True)
        except RenderError:
            self._tell("tool schemas are narrowed to one type each")
            return [narrow_tool(tool) for tool in tools]
        return None

    def _tell(self, repair: str) -> None:
        if repair and repair not in self._told:
            self._told.add(repair)
            _log.info("the chat template refused a conversation; repaired: %s", repair)

    def choices(self) -> list[Choice]:
        """What was chosen and why, for the ready message."""
        if self._template is None:
            reason = (
                "the checkpoint has no chat template; messages are written as plain 'role: content' lines, tools are not shown"
            )
            return [Choice("chat template", "none", reason)]
        able = self.abilities
        if able.broken:
            return [Choice("chat template", self._template.origin, f"chat requests will fail: {able.broken}")]
        found = [Choice("chat template", self._template.origin, "renders a user message")]
        if able.repairs:
            names = "; ".join(repair.name for repair in able.repairs)
            found.append(Choice("chat repairs", names, "the template refuses, loses or does not know the originals (probed)"))
        if able.lacking:
            found.append(Choice("chat template lacks", "; ".join(able.lacking), "no repair makes the template render this"))
        if not able.reads_tools:
            found.append(Choice("tools", "not shown to the model", "the template does not print the tools of a request"))
        if self._template.mentions("strftime_now"):
            found.append(Choice("date", "in the prompt", "the template prints it, so cached prefixes end with the day"))
        return found
