"""Steps as the tokens of a chat format, spelled as its table says. Knows no prompts, no grammars and no engine."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Channels
from tokenwell.chat.formats.gemma4 import STRING
from tokenwell.chat.formats.writing import write_call
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.drivers.scripted.script import Step


class Writer:
    """Writes answers in one chat format with one tokenizer, all of whose special tokens are written by id only."""

    def __init__(self, bound: Bound, tokenizer: Tokenizer, end_id: int) -> None:
        """`end_id`: the token that ends a turn."""
        self.bound = bound
        self.end_id = end_id
        self._tokenizer = tokenizer
        self._ids = {character: id for id, character in bound.ids.items()}
        self._single = bound.call is not None and bound.call.single

    @property
    def single(self) -> bool:
        """One call an answer."""
        return self._single

    def answer(self, steps: Sequence[Step]) -> list[int]:
        """The token ids of an answer, without the one that ends it."""
        channels = self.bound.format.channels
        return self.ids(self._in_channels(steps, channels) if channels is not None else self._in_row(steps))

    def opening(self, tool: str) -> list[int]:
        """How a call of `tool` begins, up to its arguments; empty when the format has no calls."""
        call = self.bound.call
        return (
            []
            if call is None
            else self.ids(self.bound.spelled(call.begin + call.before) + tool + self.bound.spelled(call.between))
        )

    def content_opening(self) -> list[int]:
        """What comes before an answer's text where every message has a header; else nothing."""
        channels = self.bound.format.channels
        return [] if channels is None else self.ids(self.bound.spelled(_header(channels, "final")))

    def thinking_ids(self) -> list[int]:
        """Tokens that begin a thought."""
        thinking = self.bound.format.thinking
        mark = None if thinking is None else self.bound.marks.get(thinking.open)
        return [] if mark is None else [self._ids[mark]]

    def closings(self) -> list[list[int]]:
        """What ends arguments, a call and a run of calls; also a text, where that takes a mark."""
        call = self.bound.call
        if call is None:
            return []
        ends = (self.bound.spelled(end) for end in (call.after + call.end, call.after, call.end))
        texts = [end for end in ends if self._ids.keys() & set(end)]  # without a mark it could as well be a part of a text
        if call.arguments == "xml":
            texts += ["\n</parameter>\n" + call.after, "\n</parameter>\n"]
        if call.arguments == "gemma":
            texts.append(STRING)
        return [self.ids(self.bound.spelled(text)) for text in texts]

    def ids(self, text: str) -> list[int]:
        """Token ids of text in which marks are characters; what looks like a mark otherwise stays text."""
        ids: list[int] = []
        start = 0
        for place, character in enumerate(text):
            if character in self._ids:
                ids += [*self._plain(text[start:place]), self._ids[character]]
                start = place + 1
        return ids + self._plain(text[start:])

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []

    def _in_row(self, steps: Sequence[Step]) -> str:
        """An answer whose parts follow each other."""
        call = self.bound.call
        calls = [step for step in steps if step.kind == "call"]
        if call is not None and call.whole and calls:
            steps = calls  # such a call is read as one only when nothing stands before it
        spelled = self.bound.spelled
        text, run = "", False  # run: the last step was a call
        for step in steps:
            if call is None or step.kind != "call":
                text += (spelled(call.end) if call is not None and run else "") + self._words(step)
                run = False
                continue
            text += (spelled(call.separator) if run else spelled(call.begin)) + write_call(self.bound, step.text, step.arguments)
            run = True
        return text + (spelled(call.end) if call is not None and run else "")

    def _words(self, step: Step) -> str:
        thinking = self.bound.format.thinking
        if step.kind == "say":
            return step.text
        if step.kind == "call":
            return f"The chat format {self.bound.name} has no calls, so {step.text} is not called."
        if thinking is None:
            return ""  # a format without thoughts has no place for them
        opening = self.bound.spelled(thinking.open + thinking.label + thinking.padding[0])
        return opening + step.text + self.bound.spelled(thinking.padding[1] + thinking.close + thinking.after)

    def _in_channels(self, steps: Sequence[Step], channels: Channels) -> str:
        """An answer each part of which is a message with a header; the first one's begins in the prompt."""
        spelled = self.bound.spelled
        again = spelled(channels.ends[0] + channels.start) + "assistant"
        messages = []
        for index, step in enumerate(steps):
            if step.kind == "call":
                messages.append(write_call(self.bound, step.text, step.arguments))
            else:
                later_call = any(each.kind == "call" for each in steps[index + 1 :])
                name = "analysis" if step.kind == "think" else "commentary" if later_call else "final"
                messages.append(spelled(_header(channels, name)) + step.text)
        return again.join(messages)


def _header(channels: Channels, name: str) -> str:
    return f"{channels.channel}{name}{channels.message}"
