"""`python -m tokenwell.drivers.scripted --spec JSON`: one scripted engine, started by the gateway or by hand."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from functools import partial
from pathlib import Path

from tokenwell.chat.defaults import Defaults
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import bind
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.drivers.scripted.answer import Author
from tokenwell.drivers.scripted.loop import Behaviour, Loop
from tokenwell.drivers.scripted.prefixes import Prefixes
from tokenwell.drivers.scripted.writing import Writer
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import CheckpointError
from tokenwell.wire.messages import Choice, Ready
from tokenwell.wire.program import run
from tokenwell.wire.pulse import Pulse
from tokenwell.wire.spec import EngineSpec

_SEQUENCES = 256
_CACHED_TOKENS = 4_194_304  # what the prefix cache remembers, unless the window is larger
_STEP_TOKENS = 8192

log = logging.getLogger("tokenwell.scripted")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tokenwell.drivers.scripted", description="A Tokenwell engine that does what user messages say."
    )
    parser.add_argument("--spec", required=True, help="an EngineSpec as JSON")
    parser.add_argument("--chat-format", choices=list(FORMATS), default="hermes", help="how answers are written")
    parser.add_argument("--tpot-ms", type=float, default=0.0, help="time between two tokens of an answer")
    parser.add_argument("--ttft-ms", type=float, default=0.0, help="time before an answer's first token")
    parser.add_argument("--die-after", type=int, help="exit after so many tokens of an answer")
    parser.add_argument("--stall-after", type=int, help="hang after so many tokens of an answer")
    parser.add_argument("--garbage-after", type=int, help="go on with random tokens after so many tokens of an answer")
    parser.add_argument("--once", type=Path, help="a file that the first fault makes; while it is there, no fault happens")
    return parser.parse_args()


def main() -> int:
    """Read the folder, report Ready, serve. The exit status is 0 only after a Shutdown."""
    options = _options()
    behaviour = Behaviour(
        options.tpot_ms, options.ttft_ms, options.die_after, options.stall_after, options.garbage_after, options.once
    )
    return run(options.spec, partial(_serve, options.chat_format, behaviour), log)


def _serve(chat_format: str, behaviour: Behaviour, spec: EngineSpec, channel: EngineChannel) -> None:
    began = time.monotonic()
    pulse = Pulse(spec.events, spec.parent_pid)
    folder = Path(spec.checkpoint)
    tokenizer = Tokenizer.load(folder)
    defaults = Defaults.load(folder, tokenizer)
    end_id = None if tokenizer.eos_token is None else tokenizer.id_of(tokenizer.eos_token)
    if end_id is None:
        raise CheckpointError(f"{folder}: its tokenizer has no eos_token, with which a scripted answer ends")
    # Only now: what a script says must not become a special token, but those of a prompt had to be read.
    tokenizer.encoder.encode_special_tokens = True
    author = Author(tokenizer, Writer(bind(FORMATS[chat_format], tokenizer.special), tokenizer, end_id))
    window = spec.max_model_len or defaults.context_length
    if window is None:
        raise CheckpointError(f"{folder / 'config.json'}: max_position_embeddings is missing; say how long a request may be")
    ready = _ready(spec, tokenizer.vocab_size, window, behaviour, time.monotonic() - began)
    prefixes = Prefixes(spec.page_tokens, ready.num_pages) if spec.prefix_cache else None
    channel.send(ready)
    pulse.stage = "serving"
    Loop(channel, author, behaviour, ready, pulse, prefixes).run()


def _ready(spec: EngineSpec, vocab_size: int, window: int, behaviour: Behaviour, load_seconds: float) -> Ready:
    group = KvGroup("scripted", (), 0, 0, None, 0, spec.page_tokens)
    return Ready(
        architecture="Scripted",
        device="cpu",
        dtype="none",
        vocab_size=vocab_size,
        max_model_len=window,
        max_num_seqs=spec.max_num_seqs or _SEQUENCES,
        max_num_batched_tokens=spec.max_num_batched_tokens or _STEP_TOKENS,
        weights_bytes=0,
        page_bytes=0,
        num_pages=-(-max(window, _CACHED_TOKENS) // spec.page_tokens) + 1,
        groups=(group,),
        load_seconds=load_seconds,
        choices=[Choice("engine", "scripted", _told(behaviour))],
    )


def _told(behaviour: Behaviour) -> str:
    """The behaviour in words, for the ready message."""
    faults = {"dies": behaviour.die_after, "stalls": behaviour.stall_after, "writes garbage": behaviour.garbage_after}
    told = [f"{what} after {tokens} tokens of an answer" for what, tokens in faults.items() if tokens is not None]
    pace = f"{behaviour.ttft_ms:g} ms to the first token, {behaviour.tpot_ms:g} ms for each other"
    often = " (once)" if told and behaviour.once is not None else ""
    return "; ".join(["no model: it does what the marks in user messages say", pace, *told]) + often


if __name__ == "__main__":
    sys.exit(main())
