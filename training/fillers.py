"""Small words beside values in Chinese requests: no blank shows where a value ends, so what stands beside it has to vary.

"把{file}发给{person}" becomes "把我的{file}直接发给{person}". The words stand in frames.toml [fillers].
"""

import re
from collections.abc import Mapping, Sequence
from random import Random

from training.kinds import Value
from training.pseudo import pick
from training.world import Words

SHARE = 0.2  # the chance of each place
# What may not be torn from the value before it: particles, measure words, parts of places and dates.
_TIED = frozenset(
    "全各每众所的地得里上中下内外前后底之间处边旁个元块号路次张份件位人度岁年月日天点分秒克升吨米厘公毫台本条包字页楼层站店家仓片吗呢吧啊了是"
    "班组群社塘盒券摊厅房园队线图表箱柜筐桶盘"
    "和与跟同以为作当一那这期专第教记、，。？！：；”」』》）"
)
_ASKS = re.compile("[吗呢？?谁哪何几啥]|什么|多少|怎么|有没有|是不是|多久|多大|多远")
_ORDERS = re.compile("帮|请|麻烦|劳|能不能|可以|想|我要|我想|需要|替我|给我|快|赶紧|现在|你去")
# Before a value: something is done with it. Behind it: something is asked of it.
_DONE_WITH = frozenset(("", *"把将给让请帮从在为向对跟替"))
_WHOSE = frozenset("把将给看查开关浇喂修订放发删读找洗测帮从让养种剪换搬移")
_ASKED = frozenset("多少几怎什有还能会到值要可哪啥行何谁卖属叫开")
_NUMBERS = ("small", "count", "amount", "percent", "degrees", "year", "number_id", "date", "time", "moment", "duration", "enum")


def filled(random: Random, words: Words, pieces: list[str | Value], timed: bool = False) -> list[str | Value]:
    """The pieces of a request with small words beside some values; timed: words of time would be taken for a value."""
    fillers = words.frames.get("fillers")
    if fillers is None:
        return pieces
    text = "".join(piece if isinstance(piece, str) else "_" for piece in pieces)
    asks = _ASKS.search(text) is not None
    behind = [word for word in _behind(words, fillers, text, asks, timed) if word[0] not in text]  # no "给马师傅给我"
    made = list(pieces)
    for place, piece in enumerate(pieces):
        if isinstance(piece, str) or piece.free or piece.kind in _NUMBERS or not isinstance(piece.given, str):
            continue
        before, after = made[place - 1] if place else "", made[place + 1] if place + 1 < len(made) else ""
        if behind and _takes_after(words, before, after, asks) and random.random() < SHARE:
            made[place + 1] = pick(random, behind) + str(after)
        if piece.kind in fillers["kinds"] and _takes_before(before) and random.random() < SHARE:
            made[place - 1] = str(before) + pick(random, fillers["before"])
    return made


def _behind(words: Words, fillers: Mapping[str, Sequence[str]], text: str, asks: bool, timed: bool) -> list[str]:
    """The words that may stand behind a value of this sentence: a question, an order, or something that is told."""
    if asks:
        return [*fillers["asking"], *(() if timed else fillers["lately"])]
    if _ORDERS.match(text) or text.startswith(tuple(words.frames["wrap"]["verbs"])):
        return [*fillers["after"], *(() if timed else fillers["soon"])]
    return list(fillers["telling"])


def _takes_after(words: Words, before: str | Value, after: str | Value, asks: bool) -> bool:
    """Whether an adverb may stand behind a value: before what is done with it, or what is asked of it; not before a noun."""
    if not isinstance(after, str) or not isinstance(before, str) or not "\u4e00" <= after[:1] <= "\u9fff" or after[0] in _TIED:
        return False
    if asks:
        return after[0] in _ASKED
    return before[-1:] in _DONE_WITH and after[:2] not in words.headings


def _takes_before(literal: str | Value) -> bool:
    return isinstance(literal, str) and literal[-1:] in _WHOSE
