"""The grammar of a whole answer: thinking, free text, calls and constrained content, in the order that a format writes them.

Marks that are tokens are matched by id. Marks that are text may be spread over tokens in any way. Stop tokens are never part of
the text: the engine allows them wherever the grammar may end. Knows no schemas: arguments and content come as rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Call
from tokenwell.chat.grammar.lark import ANY_TEXT, Rules, alternatives, escaped, literal, regex, sequence, tokens
from tokenwell.chat.grammar.text import FREE

_CALL_ID = "[a-zA-Z0-9]{1,40}"  # an id that the model gives a call


@dataclass(frozen=True)
class Vocabulary:
    """What a grammar must know of a tokenizer: how many ids there are, which are special, which end the answer.

    `visible`: tokens that are marks of some format without being special.
    """

    size: int
    special: frozenset[int]
    stops: frozenset[int]
    visible: Mapping[str, int] = field(default_factory=dict)
    thinks: bool = True  # the model knows the format's way of thinking


@dataclass(frozen=True)
class Wanted:
    """What an answer may consist of. `arguments`: tool name -> the rule of its arguments; `content`: the rule of the text."""

    arguments: Mapping[str, str]
    content: str | None  # None: free text
    must_call: bool
    parallel: bool
    reasoning: bool  # the prompt ends inside thinking
    thinking_tokens: int  # what thinking may take of an answer that is held to something


class Answer:
    """Writes one answer's grammar into `rules`."""

    def __init__(self, rules: Rules, bound: Bound, vocabulary: Vocabulary) -> None:
        self.rules = rules
        self.bound = bound
        self.vocabulary = vocabulary
        self.ids = {letter: id for id, letter in bound.ids.items()}

    def start(self, wanted: Wanted) -> str:
        """The body of the start rule."""
        if wanted.must_call or wanted.content is not None:
            return self._held(wanted)
        return self._free(wanted)

    # ------------------------------------------------------------ held to calls or content

    def _held(self, wanted: Wanted) -> str:
        """Thinking, if any, and then nothing but calls or the content."""
        options = []
        if wanted.arguments:
            options.append(self._calls(wanted))
        if wanted.content is not None and not wanted.must_call:
            options.append(wanted.content)
        return f"{self._thought(wanted)} {alternatives(options)}"

    def _thought(self, wanted: Wanted) -> str:
        """The thinking before what is wanted."""
        thinking = self.bound.format.thinking
        if thinking is None or not (self.vocabulary.thinks or wanted.reasoning):
            return ""
        close = self.bound.spelled(thinking.close)
        id = self.ids.get(close, self.vocabulary.visible.get(thinking.close))
        after = f"({literal(thinking.after)})?" if thinking.after else ""
        if id is None:  # without a token that ends a thought it cannot be bounded, so none is begun
            return f"{self._closed(self._triggers())} {after}" if wanted.reasoning else ""
        rest = f"{self.bounded([close, *self._triggers()], wanted.thinking_tokens)} {tokens([id])} {after}"
        return rest if wanted.reasoning else f"({self.spelled(thinking.open)} {rest})?"

    def bounded(self, without: Iterable[str], most: int) -> str:
        """Text of at most so many tokens, without special tokens and without the texts among these; it may be empty."""
        text = self._text([each for each in without if each not in self.ids])
        return self.rules.rule("thought", text, f"[max_tokens={most}]") + "?"

    def _calls(self, wanted: Wanted) -> str:
        """All calls of an answer and what stands around them."""
        call = self.bound.call
        assert call is not None, "arguments are only given when calls can be written"
        opening = self.bound.spelled(call.begin + call.before)
        bare = opening.lstrip()
        white = literal(opening[: len(opening) - len(bare)])
        first = f"({white})? " if white else ""
        return first + sequence(bare, self.ids) + " " + self._behind(call, wanted, several=wanted.parallel)

    def _behind(self, call: Call, wanted: Wanted, several: bool) -> str:
        """From the first call's name on."""
        named = self._named(call, wanted.arguments)
        more = ""
        if several and not call.single:
            more = f"({self.spelled(call.separator + call.before)} {named})*"
        return f"{named} {more} {self.spelled(call.end)}".strip()

    def _named(self, call: Call, arguments: Mapping[str, str]) -> str:
        """Name, arguments and the end of one call."""
        between, after = self.spelled(call.between), self.spelled(call.after)
        if call.call_id and (call.call_id in self.bound.marks or call.call_id in self.vocabulary.visible):
            between = f"({self.spelled(call.call_id)} {regex(_CALL_ID)})? {between}"
        options = [f"{literal(name_in(call, name))} {between} {rule}" for name, rule in arguments.items()]
        return self.rules.rule("call", f"{alternatives(options)} {after}")

    # ------------------------------------------------------------ free until a call opens

    def _free(self, wanted: Wanted) -> str:
        """Text and thinking as the model likes, and calls as their format and their schemas want them."""
        call, thinking = self.bound.call, self.bound.format.thinking
        triggers = self._triggers()
        if all(trigger in self.ids for trigger in triggers):
            thinking = None  # a token opens a call wherever it stands, and all the rest is free in thinking as outside of it
        openers = [*triggers, *([self.bound.spelled(thinking.open)] if thinking else [])]
        gap, first = self.gap(openers), self.gap(openers, first=True)
        units, tails = [], [gap]
        calls = self._opened(openers, wanted) if call is not None and not call.whole else None
        if thinking is not None:
            lead = self.lead(openers, self.bound.spelled(thinking.open))
            units.append(f"{lead} {self._closed(())}")
            tails.append(f"{lead} {self._unclosed()}")
        if calls is not None:
            lone = call is not None and (call.single or not wanted.parallel)
            (tails if lone else units).append(calls)
        body = f"({' | '.join(units)})* {alternatives(tails)}" if units else alternatives(tails)
        if first != gap:
            body = f"{first} | {self._calls(wanted)}" if call is not None and call.whole else first
        if wanted.reasoning and thinking is not None:
            body = f"{self._unclosed()} | {self._closed(())} {self.rules.rule('rest', body)}"
        return body

    def _opened(self, openers: list[str], wanted: Wanted) -> str | None:
        """Free text up to a call, and the call; None when nothing may be called."""
        call = self.bound.call
        if call is None or not wanted.arguments:
            return None
        trigger, rest = self._trigger(call)
        several = wanted.parallel and bool(call.begin)  # calls without a common frame follow each other as text does
        return f"{self.lead(openers, trigger)} {sequence(rest, self.ids)} {self._behind(call, wanted, several)}"

    def _triggers(self) -> list[str]:
        """What opens calls, whichever spelling they are in; a reader forgives a forgotten frame, so what stands inside counts."""
        calls = [call for call in self.bound.format.calls if not call.whole]
        inner = [self.bound.spelled(call.before).lstrip()[:1] for call in calls]
        texts = [text for text in sorted(self.bound.reading.triggers) if text not in self.ids]
        marks = [mark for mark in inner if mark in self.ids]
        return list(dict.fromkeys([*(self._trigger(call)[0] for call in calls), *marks, *texts]))

    def _trigger(self, call: Call) -> tuple[str, str]:
        """The mark that opens a call, and the rest up to the name."""
        opening = self.bound.spelled(call.begin + call.before).lstrip()
        if opening[:1] in self.ids:
            return opening[0], opening[1:]
        mark = next((mark for mark in self.bound.format.marks if opening.startswith(mark)), opening)
        return mark, opening[len(mark) :]

    # ------------------------------------------------------------ stretches of free text

    def lead(self, openers: Iterable[str], opener: str) -> str:
        """Free text up to and including one of its openers."""
        openers = list(openers)
        if opener in self.ids:
            return f"{self.gap(openers)} {tokens([self.ids[opener]])}"
        # Other marks end a lazy text by themselves; what opens a call without being a mark must be kept out of it.
        return f"{self._pieces(openers)} {self._head([each for each in openers if each not in self.bound.format.marks], opener)}"

    def gap(self, openers: Iterable[str], first: bool = False) -> str:
        """Free text without any of these. `first`: at the start of the answer, where JSON may be a call."""
        openers = list(openers)
        whole = first and any(call.whole for call in self.bound.format.calls)
        if not whole and all(opener in self.ids for opener in openers):
            return self.rules.rule("gap", f"{self._others(openers)}*")
        text = self._text([opener for opener in openers if opener not in self.ids])
        gap = self.rules.rule("gap", f"{self._pieces(openers)} {text}?")
        if not whole:
            return gap
        keys = "|".join(key for call in self.bound.format.calls if call.whole for key in call.envelope or ())
        object_of = r"[ \t\r\n]*[{][ \t\r\n]*" + f'"({keys})"' + ANY_TEXT
        opening = self.rules.rule("TEXT", f"{regex('(?s:.+)')} & ~{regex(object_of)}")
        special = self._specials(openers)
        return f"({opening}? ({special} {gap})?)" if special else f"{opening}?"

    def _pieces(self, openers: Iterable[str]) -> str:
        """Texts, each with a special token behind it."""
        openers = list(openers)
        special = self._specials(openers)
        text = self._text([opener for opener in openers if opener not in self.ids])
        return self.rules.rule("pieces", f"({text}? {special})*") if special else ""

    def _text(self, without: list[str]) -> str:
        pattern = regex("(?s:.+)")
        if without:
            unlike = regex(f"{ANY_TEXT}({'|'.join(escaped(each) for each in without)}){ANY_TEXT}")
            pattern = f"{pattern} & ~{unlike}"
        return self.rules.rule("TEXT", pattern)

    def _specials(self, openers: Iterable[str]) -> str:
        """Any special token that neither opens something nor ends the answer."""
        return tokens(self.vocabulary.special - self.vocabulary.stops - {self.ids[each] for each in openers if each in self.ids})

    def _others(self, openers: Iterable[str]) -> str:
        """Any token that neither opens something nor ends the answer."""
        return others({self.ids[each] for each in openers} | self.vocabulary.stops, self.vocabulary.size)

    # ------------------------------------------------------------ thinking

    def _closed(self, without: Iterable[str]) -> str:
        """The rest of a thought and its closing mark; `without` these."""
        assert self.bound.format.thinking is not None
        close = self.bound.spelled(self.bound.format.thinking.close)
        without = list(without)
        if close in self.ids:
            return f"{self.gap([close, *without])} {tokens([self.ids[close]])}"
        return f"{self._pieces([close, *without])} {self._head(without, close)}"

    def _head(self, without: Iterable[str], mark: str) -> str:
        """Text without any of these, and the first such mark behind it."""
        texts = [escaped(each) for each in without if each not in self.ids and each != mark]
        before = FREE
        if texts:
            before = self.rules.rule("TEXT", f"{FREE} & ~{regex(ANY_TEXT + '(' + '|'.join(texts) + ')' + ANY_TEXT)}")
        return self.rules.rule("head", f"{before} {literal(mark)}", "[lazy]")

    def _unclosed(self) -> str:
        """The rest of a thought that the answer ends in."""
        assert self.bound.format.thinking is not None
        return self.gap([self.bound.spelled(self.bound.format.thinking.close)])

    def spelled(self, text: str) -> str:
        """A text of the format's table."""
        return sequence(self.bound.spelled(text), self.ids)


def others(excluded: Iterable[int], size: int) -> str:
    """Any token id below `size` that is not excluded."""
    ranges, start = [], 0
    for id in [*sorted(id for id in set(excluded) if id < size), size]:
        if id > start:
            ranges.append(f"{start}-{id - 1}" if id - 1 > start else str(start))
        start = id + 1
    return f"<[{','.join(ranges)}]>"


def name_in(call: Call, name: str) -> str:
    """A tool's name as the spelling writes it."""
    return literal(name)[1:-1] if call.envelope else name
