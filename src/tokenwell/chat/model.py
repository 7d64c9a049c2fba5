"""Everything about text that belongs to one checkpoint: conversations in, events out. Knows no engine and no dialect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tokenwell.chat import nonces
from tokenwell.chat.canonical import canonical
from tokenwell.chat.conversation import ChatError, Conversation, OutputFormat, Prompt
from tokenwell.chat.defaults import Defaults
from tokenwell.chat.detokenize import Detokenizer
from tokenwell.chat.events import Event
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import bind
from tokenwell.chat.formats.choose import Checkpoint, choose
from tokenwell.chat.formats.plain import PLAIN
from tokenwell.chat.grammar.answer import Vocabulary
from tokenwell.chat.grammar.constraint import Constrainer, Constraint
from tokenwell.chat.literal import Breaker
from tokenwell.chat.parser import Parser
from tokenwell.chat.renderer import Renderer
from tokenwell.chat.repairs import TOOLS_AS_TEXT
from tokenwell.chat.template import Template
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice

_PLAIN = bind(PLAIN, {})  # how raw completions are read


class ChatModel:
    """Tokenizer, template, defaults and format of a checkpoint. Loaded once; its methods may be called from any thread."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | None,
        defaults: Defaults,
        chat_format: str = "auto",
        keep_nonces: Collection[str] = (),
    ) -> None:
        """Raises SettingsError when the format, or a rule of `nonces` that is not to be applied, is not known."""
        if chat_format != "auto" and chat_format not in FORMATS:
            known = ", ".join(["auto", *FORMATS])
            raise SettingsError(f"model.chat_format: {chat_format!r} is not known; choose one of {known}")
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults
        unknown = sorted(set(keep_nonces) - set(nonces.NAMES))
        if unknown:
            known = ", ".join(nonces.NAMES)
            raise SettingsError(f"model.keep_nonces: {unknown[0]!r} is no rule that is known; the rules are {known}")
        self._keep_nonces = frozenset(keep_nonces)
        self._renderer = Renderer(template, tokenizer.named)
        chosen = choose(self._checkpoint(), chat_format)
        self.format = chosen.bound
        self._renderer.breaker = Breaker(list(tokenizer.special), self._thinking_marks())
        visible = {text: id for text, id in tokenizer.added.items() if text not in tokenizer.special}
        stops = frozenset(defaults.stop_ids)
        thinks = self._knows_thinking()
        vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.special_ids, stops, visible, thinks)
        self._constrainer = Constrainer(self.format, vocabulary)
        # False: the template never shows a request's tools, or the calls that it teaches cannot be read.
        self.reads_tools = self._renderer.abilities.reads_tools and chosen.calls
        self.may_reason = self.format.format.thinking is not None or self.format.format.channels is not None
        self.choices = [*self._renderer.choices(), chosen.choice, self._stop_choice()]

    @classmethod
    def load(
        cls, folder: Path, *, chat_template: Path | None = None, chat_format: str = "auto", keep_nonces: Collection[str] = ()
    ) -> ChatModel:
        """Read a checkpoint folder; `chat_template` is a file that replaces the checkpoint's template.

        Raises CheckpointError naming the file that is wrong, SettingsError for a bad argument.
        """
        tokenizer = Tokenizer.load(folder)
        return cls(tokenizer, Template.load(folder, chat_template), Defaults.load(folder, tokenizer), chat_format, keep_nonces)

    def render(self, conversation: Conversation, max_tokens: int | None = None) -> Prompt:
        """The prompt of an answer of at most `max_tokens`.

        Raises ChatError, whose message is for the client, when the conversation cannot be rendered.

        The template owns the special tokens: none are added to its text. Takes milliseconds, but up to ten seconds with a
        template that does not end, so an event loop should call it in a thread.
        """
        try:
            return self._rendered(self.canonical(conversation), max_tokens)
        except RecursionError as error:
            raise ChatError("its JSON is nested too deeply.") from error

    def _rendered(self, conversation: Conversation, max_tokens: int | None) -> Prompt:
        pieces = self._renderer.pieces(conversation)
        text = "".join(pieces)
        tokens = self.tokenizer.encode_pieces(pieces, add_special_tokens=self.template is None)
        reasoning = self._starts_in_reasoning(text, conversation.continue_final_message)
        constraint = self._constrainer.constrain(conversation, reasoning, max_tokens)
        return Prompt(
            conversation=conversation,
            text=text,
            tokens=tokens,
            continues=conversation.continue_final_message,
            tools=conversation.tools if conversation.tool_choice.mode != "none" else (),
            reasoning=reasoning,
            grammar=constraint.grammar,
            warnings=constraint.warnings,
            checks=constraint.checks,
        )

    def constrain_text(self, output: OutputFormat | None) -> Constraint:
        """What a raw completion's text is held to. Raises ChatError."""
        return self._constrainer.constrain_text(output)

    def canonical(self, conversation: Conversation) -> Conversation:
        """The conversation in the one spelling that `render` gives it first."""
        return canonical(conversation, self._keep_nonces)

    def _thinking_marks(self) -> tuple[str, ...]:
        thinking = self.format.format.thinking
        return () if thinking is None else (thinking.open, thinking.close)

    def _knows_thinking(self) -> bool:
        """Whether the checkpoint has its format's marks of thinking as tokens or in its template."""
        thinking = self.format.format.thinking
        if thinking is None:
            return self.format.format.channels is not None
        return thinking.open in self.tokenizer.added or (self.template is not None and self.template.mentions(thinking.close))

    def _starts_in_reasoning(self, text: str, continues: bool) -> bool:
        """Whether the prompt's end leaves a thought open: the rendered text says so, no flag of the request."""
        thinking = self.format.format.thinking
        if continues and thinking is not None:
            return text.rfind(thinking.open) > text.rfind(thinking.close)
        return text.rstrip().endswith(self.format.format.starts)

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
            return TextStream(detokenizer, Parser(_PLAIN))
        return TextStream(detokenizer, Parser(self.format, prompt.tools, prompt.reasoning, id), self.format.ids)

    def _checkpoint(self) -> Checkpoint:
        """What the chat format is chosen by."""
        tokenizer, abilities = self.tokenizer, self._renderer.abilities
        return Checkpoint(
            renders=self._renderer,
            sources=() if self.template is None else tuple(self.template.sources.values()),
            # Calls that are told in our own words are not a notation of the model's.
            reads_tools=abilities.reads_tools and TOOLS_AS_TEXT not in abilities.repairs,
            special=tokenizer.special,
            stops=tuple(token for id in self.defaults.stop_ids if (token := tokenizer.token_of(id)) is not None),
        )

    def _stop_choice(self) -> Choice:
        names = [self.tokenizer.token_of(id) or "?" for id in self.defaults.stop_ids]
        shown = ", ".join(f"{name} ({id})" for name, id in zip(names, self.defaults.stop_ids, strict=True))
        return Choice("stop tokens", shown or "none", "eos of the checkpoint's files and end-of-turn tokens of its vocabulary")


class TextStream:
    """Generated ids to events, for one choice. Leave out the stop id that ended the answer if its text is not wanted."""

    def __init__(self, detokenizer: Detokenizer, parser: Parser, marks: Mapping[int, str] | None = None) -> None:
        self._detokenizer = detokenizer
        self._parser = parser
        self._marks = marks or {}  # token id -> the character that the parser knows it by
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
        if not self._marks or self._marks.keys().isdisjoint(ids):
            return self._parser.feed(self._detokenizer.feed(ids))
        return self._parser.feed(self._marked(ids))

    def _marked(self, ids: list[int]) -> str:
        """The text of ids with marks among them."""
        text, start = "", 0
        for place, id in enumerate(ids):
            if (mark := self._marks.get(id)) is not None and self.stopped is None:
                text += self._detokenizer.feed(ids[start:place]) + self._detokenizer.flush()
                text += mark if self.stopped is None else ""
                start = place + 1
        return text + self._detokenizer.feed(ids[start:])

    def finish(self, cut: bool = False) -> list[Event]:
        """Events for everything that was held back; `cut`: the answer was ended by its length or a stop string."""
        return [*self._parser.feed(self._detokenizer.finish()), *self._parser.finish(cut)]
