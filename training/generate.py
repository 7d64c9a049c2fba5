"""The mixture of all dialogues: one seed, one dialogue.

python -m training.generate [count] [en|zh] prints some; with --figures it prints how fast they come and what they are made of.
"""

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

from training import checks, conditions, documents, failures, linked, lookups, missing, mixed, sequences, talk, workflows
from training.dialogue import Dialogue
from training.single import parallel, single
from training.spacing import spaced
from training.world import LANGUAGES, Words, World

Maker = Callable[[Random, Words], Dialogue]
ENGLISH = 0.47
SPACED = 0.35  # the share of Chinese dialogues that have blanks between Chinese and Latin

_MADE = {"single": single, "parallel": parallel} | {
    kind: make
    for makers in (checks, conditions, documents, failures, linked, lookups, missing, mixed, sequences, talk, workflows)
    for kind, (_, make) in makers.KINDS.items()
}
_WEIGHTS = {
    "single": 30,
    "mixed": 24,
    "parallel": 6,
    "missing": 10,
    "unserved": 11,
    "talk": 6,
    "condition": 9,
    "advice": 7,
    "sequence": 5,
    "sequence_linked": 5,
    "chain": 9,
    "sequence_invented": 3,
    "document": 11,
    "workflow": 9,
    "lookup": 3,
    "failure": 3,
    "check": 4,
}
# kind -> (weight, how to make one)
KINDS: dict[str, tuple[float, Maker]] = {kind: (weight, _MADE[kind]) for kind, weight in _WEIGHTS.items()}

_kinds = list(KINDS)
_weights = [weight for weight, _ in KINDS.values()]


def dialogue(seed: int, world: World) -> Dialogue:
    """The dialogue of a seed; the same for the same words on every machine."""
    random = Random(seed)
    language = world.languages[0] if len(world.languages) == 1 or random.random() < ENGLISH else world.languages[1]
    kind = random.choices(_kinds, _weights)[0]
    try:
        made = KINDS[kind][1](random, world.language(language))
    except Exception as error:
        error.add_note(f"seed {seed}, {kind}, {language}")
        raise
    if language == "zh" and random.random() < SPACED:
        made = spaced(made)
    return replace(made, kind=kind, language=language)


def _figures(count: int, world: World) -> None:
    begin = time.perf_counter()
    made = [dialogue(seed, world) for seed in range(count)]
    seconds = time.perf_counter() - begin
    print(f"{count / seconds:.0f} dialogues/s")
    print(Counter(one.kind for one in made).most_common())
    print(f"{sum(len(one.tools) for one in made) / count:.2f} tools a dialogue")
    render = importlib.import_module("training.render").render
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file("training/tokenizer.json")
    tokens: Counter[str] = Counter()
    learned: Counter[str] = Counter()
    number = Counter(one.kind for one in made)
    for one in made:
        for text, learn in render(one):
            length = len(tokenizer.encode(text, add_special_tokens=False).ids)
            tokens[one.kind] += length
            learned[one.kind] += length if learn else 0
    for kind in sorted(tokens):
        print(f"{kind:20} {tokens[kind] / number[kind]:8.0f} tokens a dialogue, {learned[kind] / tokens[kind]:6.1%} learned")
    print(f"{'all':20} {tokens.total() / count:8.0f} tokens a dialogue, {learned.total() / tokens.total():6.1%} learned")


def main() -> None:
    languages = tuple(word for word in sys.argv[1:] if word in LANGUAGES) or LANGUAGES
    world = World.load("train", languages)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if "--figures" in sys.argv:
        _figures(numbers[0] if numbers else 2000, world)
        return
    for seed in range(numbers[0] if numbers else 5):
        made = dialogue(seed, world)
        print(f"\n=== {seed} {made.kind} {made.language}: {', '.join(tool['function']['name'] for tool in made.tools)}")
        for message in made.messages:
            for call in message.get("tool_calls", ()):
                print("  ->", call["function"]["name"], json.dumps(call["function"]["arguments"], ensure_ascii=False))
            if message["content"]:
                print(f"  {message['role']}: {message['content'][:600]}")


if __name__ == "__main__":
    main()
