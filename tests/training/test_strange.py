"""Strange values are copied like any other: the request, the call and what follows change together."""

from random import Random

from training import tokenizer
from training.dialogue import Dialogue, assistant, calls, results, user
from training.strange import invented, strange, titled

TOOLS = [
    {
        "type": "function",
        "function": {"name": "find", "parameters": {"type": "object", "properties": {"kind": {"enum": ["train", "bus"]}}}},
    }
]


def dialogue() -> Dialogue:
    messages = [user("Find the train to Velmora, Velmoran style")]
    messages.append(calls(messages, [("find", {"kind": "train", "to": "Velmora"})]))
    return Dialogue([*messages, *results(messages[-1], ['{"to": "Velmora"}']), assistant("Velmora it is.")], TOOLS)


def test_a_copied_value_is_replaced_everywhere_as_a_whole_word() -> None:
    changed = strange(dialogue(), Random(1))
    call = changed.messages[1]["tool_calls"][0]["function"]["arguments"]
    new = call["to"]
    assert new != "Velmora" and call["kind"] == "train"
    assert changed.messages[0]["content"] == f"Find the train to {new}, Velmoran style"
    assert changed.messages[2]["content"] == f'{{"to": "{new}"}}'
    assert changed.messages[3]["content"] == f"{new} it is."
    assert changed.tools == TOOLS


def test_without_a_copied_value_nothing_changes() -> None:
    plain = Dialogue([user("hello"), assistant("Hello.")])
    assert strange(plain, Random(1)) == plain


def test_the_same_chance_gives_the_same_text_and_no_markup() -> None:
    def texts() -> list[str]:
        made = [invented(Random(seed)) for seed in range(300)]
        return made + [titled(Random(seed), seed % 2 == 0) for seed in range(300)]

    assert texts() == texts()
    special = set(tokenizer.ids(*tokenizer.SPECIAL))
    assert all(text == text.strip() and '"' not in text and not special & set(tokenizer.encode([text])[0]) for text in texts())


def test_items_of_lists_stay() -> None:
    messages = [user("Invite Velmora and Brask")]
    messages.append(calls(messages, [("find", {"who": ["Velmora", "Brask"]})]))
    assert strange(Dialogue(messages), Random(1)).messages == messages
