"""Packed rows hold whole dialogues, and what is learned is what the assistant wrote."""

from itertools import islice

import numpy
from training import tokenizer
from training.dialogue import Dialogue, assistant, user
from training.feed import fresh, seeds
from training.measure import failures, table, turns
from training.pack import IGNORED, LONGEST, Batch, batches, rows, tokens_of


def made(count: int) -> list[Dialogue]:
    return list(islice(fresh("train", seeds(0, 0, 1)), count))


def test_rows_are_whole_dialogues_and_nearly_full() -> None:
    dialogues = made(60)
    tokenised = tokens_of(dialogues)
    packed = list(rows(dialogues, 8192))
    fitting = [source for source, (ids, _) in enumerate(tokenised) if len(ids) <= LONGEST]
    assert sorted(source for row in packed for source in row.sources) == fitting
    assert len(fitting) >= 58
    for row in packed:
        assert row.ids == [token for source in row.sources for token in tokenised[source][0]]
        assert len(row.ids) == sum(row.lengths) == len(row.learned) <= 8192


def test_a_dialogue_that_is_too_long_is_left_out() -> None:
    dialogues = [Dialogue([user("word " * 200), assistant("ok")]), Dialogue([user("word"), assistant("ok")])]
    (row,) = rows(dialogues, 100)
    assert row.sources == [1]


def test_no_piece_of_a_row_is_longer_than_the_kernel_is_told() -> None:
    dialogues = [Dialogue([user("word"), assistant("ok")])]
    (batch,) = batches(dialogues, 2, 3 * LONGEST, 20)
    for row in batch.documents:
        assert (numpy.diff(row) >= 0).all()
        assert numpy.unique(row, return_counts=True)[1].max() <= LONGEST
    assert batch.documents[0][-1] > batch.documents[0][LONGEST] > batch.documents[0][0]


def test_places_point_before_what_the_assistant_wrote() -> None:
    dialogues = [Dialogue([user(f"say {word}"), assistant(word)]) for word in ("one", "two", "three")]
    (batch,) = batches(dialogues, 2, 64, 20)
    known = batch.targets != IGNORED
    assert tokenizer.load().decode(batch.targets[known].tolist(), skip_special_tokens=False) == "one<turn|>two<turn|>three<turn|>"
    flat, documents = batch.ids.reshape(-1), batch.documents.reshape(-1)
    assert (flat[batch.places[known] + 1] == batch.targets[known]).all()
    assert (documents[batch.places[known] + 1] == documents[batch.places[known]]).all()
    assert (numpy.diff(batch.documents, axis=1) >= 0).all()
    assert batch.learned == known.sum() == len(batch.sources[known])
    assert batch.tokens == sum(len(ids) for ids, _ in tokens_of(dialogues))


def test_more_learned_tokens_than_room_are_dropped() -> None:
    (batch,) = batches([Dialogue([user("a"), assistant("word " * 30)])], 1, 128, 8)
    assert batch.learned == 8


def test_workers_and_runs_never_share_a_seed() -> None:
    starts = {next(seeds(seed, run, worker)) for seed in (0, 1) for run in range(20) for worker in range(20)}
    assert len(starts) == 2 * 20 * 20
    assert min(b - a for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False)) >= 2**32


def test_turns_are_measured_to_the_last_token() -> None:
    dialogues = [
        Dialogue([user("say one"), assistant("one"), user("and two"), assistant("two")], kind="talk"),
        Dialogue([user("say three"), assistant("three")], kind="talk", language="zh"),
    ]
    wrong = tokenizer.encode(["three"])[0][0]

    def predict(batch: Batch) -> numpy.ndarray:
        return numpy.where(batch.targets == wrong, 0, batch.targets)

    measured = turns(dialogues, (2, 64, 20), predict)
    assert [(turn.dialogue, turn.wrong) for turn in measured] == [(0, None), (0, None), (1, 0)]
    shown = table(dialogues, measured)
    assert "2 / 2 = 100.0%" in shown and "0 / 1 =   0.0%" in shown
    told = failures(dialogues, measured)
    assert "say three" in told and ">>>three<turn|>" in told and "<pad>" in told
