"""Small words beside values in Chinese requests: no blank shows where a value ends, so what stands beside it has to vary.

"把{file}发给{person}" becomes "把我的{file}赶紧发给{person}". The words stand in frames.toml [fillers].
"""

from random import Random

from training.kinds import Value
from training.pseudo import pick
from training.world import Words

SHARE = 0.12  # the chance of each place
# What may not be torn from the value before it: particles, measure words, parts of places and dates.
_TIED = frozenset(
    "的地得里上中下内外边旁个元块号路次张份件位人度岁年月日天点分秒克升吨米厘公毫台本条包字页楼层站店家仓片吗呢吧啊了是和与跟"
    "同以一那这期专第教记、，。？！：；”」』》）"
)
_OPEN = frozenset("“「『《（\"'`：，。 \n")
_NUMBERS = ("small", "count", "amount", "percent", "degrees", "year", "number_id", "date", "time", "moment", "duration", "enum")


def filled(random: Random, words: Words, pieces: list[str | Value]) -> list[str | Value]:
    """The pieces of a request with small words beside some values."""
    fillers = words.frames.get("fillers")
    if fillers is None:
        return pieces
    made = list(pieces)
    for place, piece in enumerate(pieces):
        if isinstance(piece, str) or piece.free or piece.kind in _NUMBERS or not isinstance(piece.given, str):
            continue
        before, after = made[place - 1] if place else "", made[place + 1] if place + 1 < len(made) else ""
        if _takes_after(after) and random.random() < SHARE:
            made[place + 1] = pick(random, fillers["after"]) + str(after)
        if piece.kind in fillers["kinds"] and _takes_before(before) and random.random() < SHARE:
            made[place - 1] = str(before) + pick(random, fillers["before"])
    return made


def _takes_after(literal: str | Value) -> bool:
    return isinstance(literal, str) and "\u4e00" <= literal[:1] <= "\u9fff" and literal[0] not in _TIED


def _takes_before(literal: str | Value) -> bool:
    return isinstance(literal, str) and bool(literal) and literal[-1] not in _OPEN
