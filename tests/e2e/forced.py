"""A model without sense that is forced through grammars: random weights behind the real engine, any chat format, many schemas.

Used by the test (some schemas) and by the benchmark (all).
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
from safetensors.numpy import save
from tests.chat.grammar.walks import random_schema
from tests.e2e.service import Service, serve
from tests.tiny.random_qwen3 import config_json, tensors

from tokenwell.bundled import scripted
from tokenwell.chat.formats import FORMATS

CONTEXT_TOKENS = 8192
# Sampled evenly, a text of such a model hardly ever ends: what closes texts, lists and objects is made likelier.
_CLOSING = ('"', '<|"|>', "}", "]", "\n", '"}', "</", '",', "\n</parameter>")
_WORD = "\n</parameter>"  # raw text ends with this; chance would not spell it letter by letter


_VISIBLE = frozenset(mark for name in ("hermes", "qwen_xml", "deepseek", "mistral") for mark in FORMATS[name].marks)


def write_checkpoint(folder: Path, special: bool = True) -> Path:
    """A tiny random checkpoint whose tokenizer has the marks of every format as special tokens, or as added ones that are not."""
    folder.mkdir(parents=True, exist_ok=True)
    files = scripted.files()
    tokenizer = json.loads(files["tokenizer.json"])
    word = tokenizer["added_tokens"][-1] | {"content": _WORD, "special": False}
    tokenizer["added_tokens"].append(word | {"id": max(token["id"] for token in tokenizer["added_tokens"]) + 1})
    for token in tokenizer["added_tokens"]:
        token["special"] &= special or token["content"] not in _VISIBLE
    files["tokenizer.json"] = json.dumps(tokenizer).encode()
    ids = {**tokenizer["model"]["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}
    size = max(ids.values()) + 1
    end = ids[scripted.TURN_END]
    files["config.json"] = json.dumps(config_json(size, CONTEXT_TOKENS, [end, end])).encode()
    files["generation_config.json"] = json.dumps({"eos_token_id": [end]}).encode()
    files["model.safetensors"] = save(tensors(size), metadata={"format": "pt"})
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def closing_bias(folder: Path) -> dict[str, int]:
    """A logit bias for the tokens that close something."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {**tokenizer["model"]["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}
    spelled = [text if text == _WORD else text.replace("\n", "Ċ") for text in _CLOSING]
    return {str(ids[text]): 6 for text in spelled if text in ids}


def forced_calls(folder: Path, log: Path, format: str, seeds: range, device: str = "cpu") -> list[str]:
    """One forced call for the schema of each seed; what was wrong with each that is not valid."""
    bias = closing_bias(folder)
    with (
        serve(folder, log, f"--chat-format={format}", f"--device={device}", "--dtype=float32") as service,
        ThreadPoolExecutor(32) as pool,
    ):
        return [wrong for wrong in pool.map(lambda seed: _wrong(service, bias, seed), seeds) if wrong]


def _wrong(service: Service, bias: dict[str, int], seed: int) -> str | None:
    schema = random_schema(random.Random(seed))
    request = {
        "messages": [{"role": "user", "content": "Call it."}],
        "tools": [{"type": "function", "function": {"name": "probe", "parameters": schema}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": seed,
        "temperature": 1,
        "logit_bias": bias,
        "max_tokens": 1000,
    }
    status, answer = service.post("/v1/chat/completions", request, timeout=300)
    where = f"schema {seed} {json.dumps(schema)}: {status} {json.dumps(answer)}"
    try:
        assert status == 200
        [choice] = answer["choices"]
        assert choice["finish_reason"] == "tool_calls"
        [call] = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "probe"
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    except (AssertionError, ValueError, jsonschema.ValidationError) as error:
        return f"{where[:2000]}: {error}"
    return None
