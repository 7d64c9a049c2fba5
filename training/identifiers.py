"""Ids, files and addresses: what is copied letter by letter."""

from random import Random

from training import pseudo
from training.pseudo import pick
from training.shapes import stretched
from training.world import Words

INVENTED = 0.15  # the share of names that have invented words in the place of their own
_EXTENSIONS = ("md", "txt", "csv", "json", "pdf", "docx", "xlsx", "py", "toml", "yaml", "html", "log", "png", "sql", "go", "ts")
_TOP = ("com", "org", "net", "io", "example", "dev", "cn")


def _digits(random: Random, length: int) -> str:
    return "".join(pick(random, "0123456789") for _ in range(length))


def id(random: Random, words: Words) -> str:
    shape = random.random()
    letters = "".join(pick(random, "ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(pick(random, (1, 2, 2, 3, 3, 4))))
    if shape < 0.35:
        text = letters + pick(random, ("-", "-", "", "_", "/")) + _digits(random, pick(random, (2, 3, 4, 5, 6)))
    elif shape < 0.5:
        text = letters.lower() + pick(random, ("_", "-", "")) + "".join(pick(random, "0123456789abcdef") for _ in range(6))
    elif shape < 0.62:
        text = _digits(random, pick(random, (4, 5, 6, 8, 10)))
    elif shape < 0.74:
        text = "-".join("".join(pick(random, "0123456789abcdef") for _ in range(4)) for _ in range(pick(random, (2, 3, 4))))
    elif shape < 0.86:
        text = f"{letters}-{pick(random, (2023, 2024, 2025, 2026))}-{_digits(random, pick(random, (2, 3, 4)))}"
    elif shape < 0.94:
        text = pseudo.word(random) + pick(random, ("-", "_", ".", "#")) + _digits(random, pick(random, (1, 2, 3)))
    else:
        text = "#" + _digits(random, pick(random, (2, 3, 4, 5)))
    return text


def stem(random: Random, words: Words) -> str:
    chance = random.random()
    text = pick(random, words.names["stem"])
    if chance < INVENTED:
        text = pseudo.reword(random, text) if words.language == "zh" and chance < 0.12 else pseudo.word(random)
    if random.random() < 0.25:
        text += pick(random, ("-", "_", "")) + pick(
            random, (str(int(random.random() * 30)), "v2", "final", "2026", "2025-11", "draft")
        )
    return text


def file(random: Random, words: Words) -> str:
    return f"{stem(random, words)}.{pick(random, _EXTENSIONS)}"


def folder(random: Random, words: Words) -> str:
    parts = [pick(random, words.names["folder_name"]) for _ in range(pick(random, (1, 1, 2, 2, 3)))]
    chance = random.random()
    if chance < INVENTED:
        parts[-1] = pseudo.word(random)
    elif chance < 0.4 and "shapes" in words.pages:
        parts[-1] = stretched(random, words, parts[-1]).replace(" ", pick(random, "-_"))
    return pick(random, ("", "", "", "/", "~/", "./")) + "/".join(parts) + pick(random, ("", "", "", "/"))


def path(random: Random, words: Words) -> str:
    return folder(random, words).rstrip("/") + "/" + file(random, words)


def host(random: Random, words: Words) -> str:
    if random.random() < 0.4:
        return pick(random, words.names["domain"])
    return pseudo.word(random) + "." + pick(random, _TOP)


def url(random: Random, words: Words) -> str:
    text = pick(random, ("https://", "https://", "http://", "https://www.")) + host(random, words)
    for _ in range(pick(random, (0, 1, 1, 2, 2))):
        text += "/" + (pseudo.word(random) if random.random() < 0.6 else _digits(random, 3))
    return text + pick(random, ("", "", "", "?id=" + _digits(random, 2), ".html", "#" + pseudo.word(random)))


def email(random: Random, words: Words) -> str:
    text = pseudo.word(random)
    text += pick(random, ("", "", "." + pseudo.word(random), "_" + pseudo.word(random), _digits(random, 2)))
    return f"{text}@{host(random, words)}"


def phone(random: Random, words: Words) -> str:
    shape = random.random()
    if shape < 0.4:
        text = pick(random, ("13", "15", "18", "17")) + _digits(random, 9)
    elif shape < 0.7:
        text = f"+{pick(random, (1, 33, 44, 49, 81, 86))} {_digits(random, 3)} {_digits(random, 3)} {_digits(random, 4)}"
    else:
        text = f"{_digits(random, 3)}-{_digits(random, 3)}-{_digits(random, 4)}"
    return text
