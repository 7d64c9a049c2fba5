"""System prompts: none, a sentence, some rules, or pages of notes that fill a long context."""

from random import Random

from training import kinds
from training.clock import today
from training.pseudo import pick
from training.world import Frame, Words, frame

_SHARES = (0.4, 0.7, 0.9, 0.98, 0.995)  # none, short, short and rules, a page, some pages; the rest: many pages


def system_prompt(random: Random, words: Words) -> str | None:
    """A system prompt; None for none. The longest have about 6,000 tokens."""
    frames = words.frames.get("system")
    chance = random.random()
    if chance < _SHARES[0] or not frames:
        return None
    if chance < _SHARES[1]:
        return str(pick(random, frames["short"]))
    parts = [pick(random, frames["short"]) if random.random() < 0.5 else _fill(random, words, pick(random, frames["identity"]))]
    if random.random() < 0.6:
        parts.append(_fill(random, words, pick(random, frames["date"]).replace("{date}", today(random, words.language))))
    rules = random.sample(frames["rules"], 1 + int(random.random() * 6))
    if random.random() < 0.5:
        parts += [f"- {rule}" for rule in rules]
    else:
        parts.append(("" if words.language == "zh" else " ").join(rules))
    if chance >= _SHARES[2]:
        sections = 1 if chance < _SHARES[3] else pick(random, (2, 3, 4)) if chance < _SHARES[4] else pick(random, (12, 15, 18))
        for _ in range(sections):
            parts.append("\n## " + pick(random, frames["titles"]))
            parts += [_fill(random, words, pick(random, frames["lines"])) for _ in range(3 + int(random.random() * 17))]
    return "\n".join(parts)


_cut: dict[str, Frame] = {}


def _fill(random: Random, words: Words, text: str) -> str:
    if "{name}" in text:
        text = text.replace("{name}", pick(random, words.frames["system"]["names"]))
    cut = _cut.get(text)
    if cut is None:
        cut = _cut[text] = frame(text)
    return kinds.compose(random, words, cut)
