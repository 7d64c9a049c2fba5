"""Everything about text that belongs to one checkpoint: conversations in, events out. Knows no engine and no dialect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenwell.chat.conversation import Conversation, Prompt
from tokenwell.chat.defaults import Defaults
from tokenwell.chat.detokenize import Detokenizer
from tokenwell.chat.events import Event
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import bind
from tokenwell.chat.parser import Parser
from tokenwell.chat.renderer import Renderer
from tokenwell.chat.template import Template
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice


class ChatModel:
    """Tokenizer, template, defaults and format of a checkpoint. Loaded once; its methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, template: Template | None, defaults: Defaults, chat_format: str = "auto") -> None:
        """Raises SettingsError when the format is not known."""
        if chat_format != "auto" and chat_format not in FORMATS:
            known = ", ".join(["auto", *FORMATS])
            raise SettingsError(f"model.chat_format: {chat_format!r} is not known; choose one of {known}")
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults
        special = {text: id for text, id in tokenizer.added.items() if id in tokenizer.special_ids}
        self.format = bind(FORMATS["plain" if chat_format == "auto" else chat_format], special)
        self._renderer = Renderer(template, tokenizer.named)
        self.reads_tools = self._renderer.abilities.reads_tools  # False: the template never shows a request's tools
        self.choices = [*self._renderer.choices(), self._format_choice(chat_format), self._stop_choice()]

    @classmethod
    def load(cls, folder: Path, *, chat_template: Path | None = None, chat_format: str = "auto") -> ChatModel:
        """Read a checkpoint folder; `chat_template` is a file that replaces the checkpoint's template.

        Raises CheckpointError naming the file that is wrong, SettingsError for a bad `chat_template` or `chat_format`.
        """
        tokenizer = Tokenizer.load(folder)
        return cls(tokenizer, Template.load(folder, chat_template), Defaults.load(folder, tokenizer), chat_format)

    def render(self, conversation: Conversation) -> Prompt:
        """The prompt. Raises ChatError, whose message is for the client, when the conversation cannot be rendered.

        The template owns the special tokens: none are added to its text. Takes milliseconds, but up to ten seconds with a
        template that does not end, so an event loop should call it in a thread.
        """
        text = self._renderer.render(conversation)
        tokens = self.tokenizer.encode(text, add_special_tokens=self.template is None)
        return Prompt(text=text, tokens=tokens, continues=conversation.continue_final_message, tools=conversation.tools)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a raw text, as for a completion. Raises ChatError for text that is not Unicode."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def stream(
        self,
        prompt: Prompt | None,
        id: str = "",
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> TextStream:
        """A stream for one choice of one answer to `prompt`; None for a raw completion, whose text goes on from its prompt.

        Call ids are made from `id`.
        """
        continues = prompt is None or prompt.continues
        detokenizer = Detokenizer(self.tokenizer, stop, include_stop, skip_special_tokens, continues)
        if prompt is None:
            return TextStream(detokenizer, Parser(bind(FORMATS["plain"], {})))
        return TextStream(detokenizer, Parser(self.format, prompt.tools, prompt.reasoning, id))

    def _format_choice(self, asked: str) -> Choice:
        if asked != "auto":
            return Choice("chat format", self.format.name, "set by model.chat_format")
        return Choice("chat format", self.format.name, "reasoning and tool calls stay in the content as generated")

    def _stop_choice(self) -> Choice:
        names = [self.tokenizer.token_of(id) or "?" for id in self.defaults.stop_ids]
        shown = ", ".join(f"{name} ({id})" for name, id in zip(names, self.defaults.stop_ids, strict=True))
        return Choice("stop tokens", shown or "none", "eos of the checkpoint's files and end-of-turn tokens of its vocabulary")


class TextStream:
    """Generated ids to events, for one choice. Leave out the stop id that ended the answer if its text is not wanted."""

    def __init__(self, detokenizer: Detokenizer, parser: Parser) -> None:
        self._detokenizer = detokenizer
        self._parser = parser
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer; then the request can be aborted, and later ids give no events."""
        return self._detokenizer.stopped

    @property
    def called(self) -> bool:
        """True when the answer holds tool calls, all of them complete."""
        return self._parser.called

    def feed(self, ids: list[int]) -> list[Event]:
        """Events that are certain after these ids too."""
        if self._parser.reasoning:
            self.reasoning_tokens += len(ids)
        return self._parser.feed(self._detokenizer.feed(ids))

    def finish(self, cut: bool = False) -> list[Event]:
        """Events for everything that was held back; `cut`: the answer was ended by its length."""
        return [*self._parser.feed(self._detokenizer.finish()), *self._parser.finish(cut)]
