"""The flags that set settings, declared once for every command that takes them.

Values stay text here: `config.load` reads and checks them like every other source's, so one rule gives one message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenwell.config.load import FLAGS, Loaded, load

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint folder as on the Hugging Face Hub; without it the small bundled one is served. "
        'The word "scripted" serves an engine without a model, which does what marks in user messages say.',
    ),
]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="HOST", help="Address to listen on [127.0.0.1]. Any other than loopback requires an API key."),
]
Port = Annotated[str | None, typer.Option("--port", metavar="PORT", help="Port to listen on [8000]; 0 takes a free one.")]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="A key that clients may use; repeat it for several. "
        "Other users of this machine can see flags: prefer TOKENWELL_SERVER_API_KEY.",
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name", "--name", metavar="NAME", help="Name that clients use [the folder's]; repeat it for several."
    ),
]
ChatTemplate = Annotated[
    str | None, typer.Option("--chat-template", metavar="FILE", help="Jinja template that replaces the checkpoint's.")
]
ChatFormat = Annotated[
    str | None, typer.Option("--chat-format", metavar="NAME", help="How the model writes reasoning and tool calls [auto].")
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N, xpu or xpu:N [auto].")]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="auto, float32, bfloat16 or float16 [auto].")]
Quantization = Annotated[
    str | None,
    typer.Option("--quantization", metavar="FORMAT", help="Weights on the device: auto (as stored), none, fp8 or mxfp4 [auto]."),
]
KvCacheDtype = Annotated[
    str | None,
    typer.Option("--kv-cache-dtype", metavar="DTYPE", help="Keys and values: auto (as computed in), bf16 or fp8 [auto]."),
]
LoadFormat = Annotated[
    str | None,
    typer.Option("--load-format", metavar="FORMAT", help="auto, or dummy: random weights, for planning and benchmarks [auto]."),
]
TensorParallel = Annotated[
    str | None, typer.Option("--tp", metavar="N", help="Cards that compute every layer together (tensor parallel) [planned].")
]
Replicas = Annotated[
    str | None,
    typer.Option("--replicas", metavar="N", help="Engines behind this address, each on a device of its own [planned]."),
]
Goal = Annotated[
    str | None,
    typer.Option(
        "--goal", metavar="GOAL", help="What the layout is planned for: agents, latency, throughput or context [agents]."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse to start where something would have to be cut down.", show_default=False)
]
MaxModelLen = Annotated[
    str | None,
    typer.Option("--max-model-len", metavar="TOKENS", help="Window of a request, prompt and answer together [what fits]."),
]
MaxNumSeqs = Annotated[
    str | None, typer.Option("--max-num-seqs", metavar="N", help="Requests that are computed at the same time [what fits].")
]
MaxNumBatchedTokens = Annotated[
    str | None,
    typer.Option("--max-num-batched-tokens", metavar="TOKENS", help="Tokens that one engine step computes at most [what suits]."),
]
KvCacheGib = Annotated[
    str | None,
    typer.Option("--kv-cache-gib", "--kv-gib", metavar="GIB", help="Memory for keys and values [from the free memory]."),
]
GpuMemoryUtilization = Annotated[
    str | None,
    typer.Option("--gpu-memory-utilization", metavar="SHARE", help="Share of a card's memory that may be used [0.92]."),
]
PleOffload = Annotated[
    str | None,
    typer.Option("--ple-offload", metavar="WHEN", help="Gemma's per-layer tables in host memory: auto, on or off [auto]."),
]
NoGraphs = Annotated[
    bool, typer.Option("--no-graphs", help="Launch every kernel of a decode step by itself.", show_default=False)
]
Threads = Annotated[str | None, typer.Option("--threads", metavar="N", help="CPU threads for arithmetic [physical cores].")]
PageTokens = Annotated[
    str | None, typer.Option("--page-tokens", metavar="TOKENS", help="Tokens that one KV cache page holds [16].")
]
NoPrefixCache = Annotated[
    bool, typer.Option("--no-prefix-cache", help="Compute every prompt from its beginning.", show_default=False)
]
TpotMs = Annotated[str | None, typer.Option("--tpot-ms", metavar="MS", help="Scripted engine: time between two tokens [0].")]
TtftMs = Annotated[str | None, typer.Option("--ttft-ms", metavar="MS", help="Scripted engine: time to the first token [0].")]
DieAfter = Annotated[
    str | None, typer.Option("--die-after", metavar="TOKENS", help="Scripted engine: exit after so many tokens of an answer.")
]
StallAfter = Annotated[
    str | None, typer.Option("--stall-after", metavar="TOKENS", help="Scripted engine: hang after so many tokens of an answer.")
]
GarbageAfter = Annotated[
    str | None,
    typer.Option("--garbage-after", metavar="TOKENS", help="Scripted engine: random tokens after so many of an answer."),
]
FaultOnce = Annotated[
    bool,
    typer.Option(
        "--fault-once",
        help="Scripted engine: let the fault happen once, not in every answer that is long enough.",
        show_default=False,
    ),
]
LogLevel = Annotated[str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error [info].")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file [./tokenwell.toml, else tokenwell/tokenwell.toml below ~/.config]."
    ),
]

# ---------------------------------------------------------------- of `tokenwell plan` alone

PlannedModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint folder, config.json, GGUF file or model id of the Hugging Face Hub; else the bundled one.",
    ),
]
Gpu = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu", metavar="NAME[xN]", help='Cards to plan for, as in "b580x2" or "rtx 4090"; repeat it for others [this machine].'
    ),
]
PlannedEngine = Annotated[str, typer.Option("--engine", metavar="ENGINE", help="native or vllm==0.19.")]
Batch = Annotated[int, typer.Option("--batch", metavar="N", min=1, max=65536, help="Requests at once that a token is timed for.")]
PromptTokens = Annotated[
    int, typer.Option("--prompt-tokens", metavar="N", min=1, max=1 << 24, help="Prompt that the first token is timed for.")
]
ContextTokens = Annotated[
    int | None,
    typer.Option("--context-tokens", metavar="N", min=1, max=1 << 24, help="Tokens behind each request [as many as the prompt]."),
]

Printed = Annotated[
    tuple[int, float] | None,
    typer.Option(
        "--printed",
        metavar="TOKENS CONCURRENCY",
        help="KV cache size and concurrency that vLLM printed, to be explained.",
        show_default=False,
    ),
]

# What commands that talk to an endpoint take.
AskedEndpoint = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="Any OpenAI-compatible endpoint [where `serve` would be with these settings]."),
]
AskedModel = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="One of the endpoint's models [the first that it lists].")
]
EndpointKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="A key that the endpoint accepts [for the own service, that of its settings]."),
]

# Parameter of a command -> the setting that it sets.
_SETTINGS = {flag.lstrip("-").replace("-", "_").lower(): key for key, flag in FLAGS.items()}


def load_with_flags(context: typer.Context) -> Loaded:
    """Settings from all sources, with the flags that this command was given. Raises SettingsError."""
    given = {name: value for name, value in context.params.items() if value not in (None, [], (), False)}
    config = given.pop("config", None)
    flags = {_SETTINGS[name]: False if name.startswith("no_") else value for name, value in given.items() if name in _SETTINGS}
    return load(flags, config)
