"""Invented tools: a verb, a qualifier, a noun and parameters put together by chance, so that only the declaration says what fits.

The words stand in frames.toml under [invented]; a verb, a noun or a parameter is called by one of its synonyms in the tool's
name, by another in its description, and by a third in the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from training import facts, pseudo
from training.pseudo import pick
from training.spelling import capital, name_words
from training.tools import Tool, declare
from training.world import Parameter, ToolWords, Words, frame

DOMAIN = "invented"
_WHEN = ("date", "time", "moment")
_PSEUDO_KINDS = ("id", "word", "small", "count", "person", "city", "text", "date", "amount", "word", "id")


@dataclass(frozen=True, slots=True)
class Thing:
    """A noun: its spelling in identifiers, and how people say one and many."""

    name: str
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an invented tool does to what: a table of synonyms each. qualifier and facet may be None."""

    verb: Mapping[str, Any]
    noun: Thing
    qualifier: Mapping[str, Any] | None
    facet: Mapping[str, Any] | None
    many: bool


def invent(random: Random, words: Words, recipe: Recipe | None = None, requests: int = 4) -> ToolWords:
    """A tool nobody has seen, with so many requests."""
    invented = words.frames["invented"]
    recipe = recipe or _recipe(random, words)
    parameters = _parameters(random, words)
    results = {}
    for entry in _some(random, invented["parameter"], pick(random, (0, 1, 1, 2, 2, 3))):
        field = pick(random, entry["names"])
        # The answer calls a field by its own words, so that there is one right answer.
        results[field] = (entry["kind"], field.replace("_", " ") if words.language == "en" else entry["said"][0])
    name = _name(random, words.language, recipe)
    description = pick(random, invented["descriptions"])
    phrase = _phrase(random, words, recipe)
    verb = pick(random, recipe.verb["said"])
    description = capital(
        description.replace("{verb}", verb).replace("{verbs}", _third(words.language, verb)).replace("{object}", phrase)
    )
    return ToolWords(
        names=(name,),
        descriptions=(description,),
        requests=tuple(frame(_request(random, words, recipe, parameters)) for _ in range(requests)),
        parameters=_grouped(random, words, [parameter for parameter, _ in parameters]),
        answers=tuple(frame(_answer(random, words, results)) for _ in range(1 if requests else 0)),
        results={field: kind for field, (kind, _) in results.items()},
        domain=DOMAIN,
        key=f"~{name}",
        recipe=recipe,
    )


def namesake(random: Random, words: Words, tool: Tool, style: str | None = None) -> Tool | None:
    """A tool that differs from this one in its verb, its noun or its qualifier only; None where none can be made."""
    recipe = tool.words.recipe
    if recipe is not None:
        changed = _sibling(random, words, recipe)
        made = invent(random, words, changed, requests=0)
        if random.random() < 0.4:
            made = _with_parameters(made, tool.words.parameters)
        return declare(random, words, made, style)
    if words.language != "en" or "invented" not in words.frames:
        return None
    parts = name_words(tool.name)
    verbs = words.frames["invented"]["verb"]
    if len(parts) < 2 or not any(parts[0] in verb["names"] for verb in verbs):
        return None
    known = {part for name in tool.words.names for part in name_words(name)}
    verb = pick(random, verbs)
    if not verb.get("far") or any(name in known for name in verb["names"]):
        return None
    rest = " ".join(parts[1:])
    made = ToolWords(
        names=("_".join((pick(random, verb["names"]), *parts[1:])),),
        descriptions=(f"{capital(pick(random, verb['said']))} {_article(rest)}.",),
        requests=(),
        parameters=tool.words.parameters if random.random() < 0.6 else tuple(p for p, _ in _parameters(random, words)),
        domain=tool.words.domain,
        key=f"~{verb['names'][0]}",
    )
    return declare(random, words, made, style)


def _with_parameters(tool: ToolWords, parameters: tuple[Parameter, ...]) -> ToolWords:
    return ToolWords(tool.names, tool.descriptions, (), parameters, domain=tool.domain, key=tool.key, recipe=tool.recipe)


# ------------------------------------------------------------------------------------------------ what it does to what


def _recipe(random: Random, words: Words) -> Recipe:
    invented = words.frames["invented"]
    return Recipe(
        verb=pick(random, invented["verb"]),
        noun=_noun(random, words),
        qualifier=pick(random, invented["qualifier"]) if random.random() < 0.35 else None,
        facet=pick(random, invented["facet"]) if random.random() < 0.3 else None,
        many=random.random() < 0.25,
    )


def _noun(random: Random, words: Words) -> Thing:
    if random.random() < 0.3:
        name = pseudo.word(random)
        if words.language == "zh" and random.random() < 0.6:
            said = pseudo.han(random, pick(random, (2, 2, 3)))
            return Thing(name, (said,))
        return Thing(name, (name,))
    entry = pick(random, words.frames["invented"]["nouns"])
    name, _, said = entry.partition("=")
    synonyms = tuple(said.split(",")) if said else ()
    if words.language == "zh":
        return Thing(name, synonyms)
    return Thing(name.replace(" ", "_"), (name, name, *synonyms))


def _sibling(random: Random, words: Words, recipe: Recipe) -> Recipe:
    """The same recipe with something else in it."""
    invented = words.frames["invented"]
    verb, noun, qualifier, facet = recipe.verb, recipe.noun, recipe.qualifier, recipe.facet
    for _ in range(8):
        change = random.random()
        if change < 0.45:
            verb = pick(random, invented["verb"])
        elif change < 0.75:
            noun = _noun(random, words)
        elif change < 0.88 and recipe.qualifier is not None:
            qualifier = pick(random, invented["qualifier"])
        elif recipe.facet is not None:
            facet = pick(random, invented["facet"])
        if (
            verb is not recipe.verb
            or noun.name != recipe.noun.name
            or qualifier is not recipe.qualifier
            or facet is not recipe.facet
        ):
            break
    else:
        verb = invented["verb"][(invented["verb"].index(recipe.verb) + 1) % len(invented["verb"])]
    return Recipe(verb, noun, qualifier, facet, recipe.many)


def _name(random: Random, language: str, recipe: Recipe) -> str:
    noun = recipe.noun.name
    if recipe.many and recipe.facet is None and language == "en":
        noun = _plural(noun)
    parts = [pick(random, recipe.qualifier["names"])] if recipe.qualifier else []
    parts.append(noun)
    if recipe.facet:
        parts.append(pick(random, recipe.facet["names"]))
    verb = pick(random, recipe.verb["names"])
    return "_".join([verb, *parts] if random.random() < 0.85 else [*parts, verb])


def _phrase(random: Random, words: Words, recipe: Recipe) -> str:
    """What the tool works on, as a person says it."""
    said = pick(random, recipe.noun.said)
    qualifier = pick(random, recipe.qualifier["said"]) if recipe.qualifier else ""
    if words.language == "zh":
        facet = pick(random, ("的", "")) + pick(random, recipe.facet["said"]) if recipe.facet else ""
        return f"{qualifier}{said}{facet}"
    if recipe.facet is None:
        said = f"{qualifier} {said}".strip()
        if recipe.many:
            return pick(random, ("the ", "all ", "")) + _plural(said)
        return f"the {said}" if random.random() < 0.6 else _article(said)
    facet, shape = pick(random, recipe.facet["said"]), random.random()
    whole = f"{qualifier} {said}".strip()
    if shape < 0.5:
        return f"the {whole} {facet}"
    return f"the {facet} of the {whole}" if shape < 0.8 else f"the {whole}'s {facet}"


# ------------------------------------------------------------------------------------------------ its parameters


def _parameters(random: Random, words: Words) -> list[tuple[Parameter, str]]:
    """Parameters, each with the words that a request uses for it (for a flag: nothing)."""
    invented = words.frames["invented"]
    found: list[tuple[Parameter, str]] = []
    taken: set[str] = set()
    wanted = pick(random, (0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4))
    for place in range(wanted):
        source = random.random()
        if source < 0.14:
            made = _enum(random, words, place)
        elif source < 0.2:
            made = _flag(random, words, place)
        elif source < 0.32:
            made = _unknown(random, words, place)
        else:
            made = _plain(random, words, place)
        if found and source > 0.8 and found[-1][0].kind not in ("flag", "enum"):
            # Two of a kind: only their names tell which value belongs where.
            made = _twin(random, invented, found[-1][0], place) or made
        said = made[1]
        if not taken.intersection((said, made[0].names[0])):
            taken.update((said, made[0].names[0]))
            found.append(made)
    return found


def _grouped(random: Random, words: Words, parameters: list[Parameter]) -> tuple[Parameter, ...]:
    """The parameters; rarely some of them as the properties of one object."""
    groups = words.frames["invented"].get("groups")
    if len(parameters) < 2 or not groups or random.random() > 0.06:
        return tuple(parameters)
    inner = tuple(parameters[: 2 + int(random.random() * (len(parameters) - 1))])
    entry = pick(random, groups)
    group = Parameter(
        slot="group",
        names=tuple(entry["names"]),
        kind="object",
        required=any(parameter.required for parameter in inner),
        descriptions=tuple(entry["descriptions"]),
        parameters=inner,
    )
    return (group, *parameters[len(inner) :])


def _plain(random: Random, words: Words, place: int) -> tuple[Parameter, str]:
    entry = pick(random, words.frames["invented"]["parameter"])
    kind, name, said = entry["kind"], pick(random, entry["names"]), pick(random, entry["said"])
    if random.random() < 0.15:
        prefix = pick(random, words.frames["invented"]["prefix"])
        name, said = f"{prefix['name']}_{name}", prefix["said"] + said
    if random.random() < 0.06 and kind in ("person", "city", "id", "word", "email", "product", "file"):
        return _made(random, words, f"p{place}", name, said, f"list:{kind}"), said
    return _made(random, words, f"p{place}", name, said, kind), said


def _twin(random: Random, invented: Mapping[str, Any], first: Parameter, place: int) -> tuple[Parameter, str] | None:
    fitting = [entry for entry in invented["parameter"] if entry["kind"] == first.kind]
    if len(fitting) < 2:
        return None
    entry = pick(random, fitting)
    said = pick(random, entry["said"])
    return Parameter(f"p{place}", (pick(random, entry["names"]),), first.kind, random.random() < 0.7, (said,)), said


def _unknown(random: Random, words: Words, place: int) -> tuple[Parameter, str]:
    """A parameter whose name means nothing."""
    name = pseudo.word(random)
    said = pseudo.han(random, 2) if words.language == "zh" and random.random() < 0.6 else name
    return _made(random, words, f"u{place}", name, said, pick(random, _PSEUDO_KINDS)), said


def _made(random: Random, words: Words, slot: str, name: str, said: str, kind: str) -> Parameter:
    text = pick(random, words.frames["invented"]["parameter_descriptions"]).replace("{p}", said)
    # A Chinese request says what the description says; without it the identifier would have to be translated.
    if words.language == "zh" and said not in text and said != name:
        text = said
    return Parameter(slot, (name,), kind, random.random() < 0.75, (capital(text),))


def _enum(random: Random, words: Words, place: int) -> tuple[Parameter, str]:
    invented = words.frames["invented"]
    entry = pick(random, invented["enum"])
    said = pick(random, entry["said"])
    made_up = random.random() < 0.25
    values = [pseudo.word(random) for _ in range(4)] if made_up else list(entry["values"])
    order = list(range(len(values)))
    random.shuffle(order)
    order = order[: 2 + int(random.random() * 5)]
    spoken = entry.get("spoken", []) if not made_up else []
    return Parameter(
        f"p{place}",
        (pick(random, entry["names"]),),
        "enum",
        random.random() < 0.75,
        (said,) if spoken else (pick(random, ("", said)) if words.language == "en" else said,),
        values=tuple(values[index] for index in order),
        spoken=tuple(spoken[index] for index in order) if spoken else (),
    ), said


def _flag(random: Random, words: Words, place: int) -> tuple[Parameter, str]:
    entry = pick(random, words.frames["invented"]["flag"])
    name = pick(random, entry["names"])
    yes, no, texts = tuple(entry["yes"]), tuple(entry["no"]), tuple(entry["descriptions"])
    return Parameter(f"p{place}", (name,), "flag", False, texts, yes=yes, no=no), name


# ------------------------------------------------------------------------------------------------ what is said


def _request(random: Random, words: Words, recipe: Recipe, parameters: list[tuple[Parameter, str]]) -> str:
    invented = words.frames["invented"]
    verb, phrase = pick(random, recipe.verb["said"]), _phrase(random, words, recipe)
    chance = random.random()
    said = [(parameter, text) for parameter, text in parameters if parameter.required or random.random() < chance]
    random.shuffle(said)
    flags = "".join(f"{{{parameter.slot}}}" for parameter, _ in said if parameter.kind == "flag")
    said = [(parameter, text) for parameter, text in said if parameter.kind != "flag"]
    mode = random.random()
    inline, after = "", ""
    if mode < 0.12 and said:
        line = pick(random, invented["lines"])
        after = "".join(_clause(line, parameter, text) for parameter, text in said)
    else:
        sentences = mode > 0.78
        for parameter, text in said:
            bare = invented["bare"].get(parameter.kind)
            plain = parameter.kind not in _ROLES or name_words(parameter.names[0])[-1] in _PLAIN  # "on Monday" is not "until"
            if bare and plain and random.random() < 0.6 and _alone(words, parameter, parameters):
                clause = str(pick(random, bare))
                inline += ("，" if inline and clause[0] == "{" else "") + _clause(clause, parameter, text)
            elif sentences:
                after += _clause(pick(random, invented["sentences"]), parameter, text)
            else:
                inline += _clause(pick(random, invented["next" if inline else "first"]), parameter, text)
    sentence = str(pick(random, invented["requests"]))
    head, end = sentence.replace("{verb}", verb).replace("{object}", phrase).split("{clauses}")
    if after and not end:
        end = "." if words.language == "en" else "。"
        if after[0] == "\n":
            end = ":" if words.language == "en" else "："
    return f"{capital(head)}{inline}{flags}{end}{after}"


_ROLES = ("date", "time", "person", "email")
# Names of parameters that a value may stand for with no more than "on", "at", "for" or "to" before it.
_PLAIN = frozenset("date day time at when recipient customer owner person name email address to user".split())  # noqa: SIM905


def _alone(words: Words, one: Parameter, parameters: list[tuple[Parameter, str]]) -> bool:
    """Whether a value that stands without its parameter's name could belong to no other one; u: a name that means nothing."""
    others = [other for other, _ in parameters if other is not one and other.kind not in ("enum", "flag")]
    if one.slot[0] == "u":
        return not others
    if one.kind in words.names:
        return not any(other.kind in words.names or other.slot[0] == "u" for other in others)
    if one.kind in _WHEN:
        return not any(other.kind in _WHEN for other in others)
    return one.kind not in [other.kind for other, _ in parameters if other is not one]


def _clause(text: str, parameter: Parameter, said: str) -> str:
    return text.replace("{p}", said).replace("{}", f"{{{parameter.slot}}}")


def _answer(random: Random, words: Words, results: Mapping[str, tuple[str, str]]) -> str:
    start = str(pick(random, words.frames["invented"]["answers"]["start"])) if results else ""
    return facts.sentence(words, [(said, f"{{{name}}}") for name, (_, said) in results.items()], start)


# ------------------------------------------------------------------------------------------------ English inflection


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


def _third(language: str, verb: str) -> str:
    """look up -> looks up."""
    if language != "en":
        return verb
    head, _, tail = verb.partition(" ")
    return f"{_plural(head)} {tail}".strip()


def _article(noun: str) -> str:
    return ("an " if noun[:1].lower() in tuple("aeiou") else "a ") + noun


def _some(random: Random, values: list[Any], count: int) -> list[Any]:
    return random.sample(values, count)
