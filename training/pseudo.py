"""Invented words: nobody has seen them, so a model can only copy them."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Any_ = TypeVar("Any_")

_ONSETS = ("", *"b br c cl d dr f fl g gr h j k kr l m n p pl qu r s sh sk sl st t th tr v w y z".split())  # noqa: SIM905
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "o", "ai", "ea", "ei", "ia", "io", "oa", "ou", "y")
_CODAS = ("", "", "", "", "l", "n", "r", "s", "m", "x", "nd", "rn", "ck", "t", "th", "lm", "sk", "v")
# The characters of everyday Chinese: level 1 of GB 2312, 3,755 of them.
HAN = "".join(
    bytes((row, cell)).decode("gb2312") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) if (row, cell) < (0xD7, 0xFA)
)
# Characters that tie a name to the sentence around it: where a name with one of them ends, nobody could tell.
LOOSE = frozenset(
    "的地得了着过吗呢吧啊呀嘛哦么我你您他她它咱这那哪谁什某各每其此之和与跟同及或并且而但因为由从自到至往向朝在于对给把将被让叫使令"
    "用以按照据比如像随除连不没未别勿很最太更也都还又再就才只仅已曾正刚要会能可应该必须先后快慢马立赶尽总老常共全是有无做作办弄搞打"
    "拿取送寄发收来去回上下进出开关起停放装挂贴写记录登填查看找搜问听说讲读念学教买卖订定约租借换退改修删加添减建设置选挑派报申请帮替代"
    "喊提交付缴充存转移调播唱画拍印算分合离走跑坐住吃喝玩睡喂养种浇施剪摘洗晒穿戴零一二两三四五六七八九十百千万几多少半第约等左右中内外"
    "前里间旁边个件张份次本只条块瓶盒包袋台套位名届期号楼层室页章节集部首篇项元角斤克吨米公升度天日月年时点秒周岁人"
)
_PLAIN_HAN = "".join(letter for letter in HAN if letter not in LOOSE)
_RUDE = ("porn", "sex", "fuck", "shit", "nazi", "rape", "cunt", "slut", "whor")


def pick(random: Random, values: Sequence[Any_]) -> Any_:
    """One of the values; three times as fast as Random.choice."""
    return values[int(random.random() * len(values))]


def word(random: Random) -> str:
    """A lower-case word of one to four syllables, such as velmora."""
    text = ""
    for _ in range(pick(random, (1, 2, 2, 2, 2, 3, 3))):
        text += pick(random, _ONSETS) + pick(random, _VOWELS) + pick(random, _CODAS)
    if any(rude in text for rude in _RUDE):
        return word(random)
    return text if len(text) > 2 else text + pick(random, ("ra", "lin", "mos"))


def name(random: Random) -> str:
    """An identifier that says nothing."""
    text = word(random)
    return text if len(text) > 7 and random.random() < 0.5 else f"{text}_{word(random)}"


def han(random: Random, length: int) -> str:
    """Everyday characters in no order, none of which could belong to the sentence around them."""
    return "".join(pick(random, _PLAIN_HAN) for _ in range(length))


def reword(random: Random, text: str) -> str:
    """A name of the same shape in which at least one word, or one Chinese character in two, is invented."""
    parts = text.split(" ")
    chosen = int(random.random() * len(parts))
    for place, part in enumerate(parts):
        if place == chosen or random.random() < 0.5:
            parts[place] = _like(random, part)
    return " ".join(parts)


def _like(random: Random, part: str) -> str:
    if any(letter >= "\u4e00" for letter in part):
        changed = [han(random, 1) if letter >= "\u4e00" and random.random() < 0.6 else letter for letter in part]
        return "".join(changed)
    if not part.isalpha():
        return part
    new = word(random)
    if part[0].isupper():
        return new.upper()[: max(2, len(part))] if part.isupper() and len(part) > 1 else new.capitalize()
    return new
