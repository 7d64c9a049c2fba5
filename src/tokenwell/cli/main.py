"""The `tokenwell` command: parses the command line and calls what does the work. Everything slow is imported by its command.

Exit codes: 0, 1 (it failed), 2 (the command line or a setting is wrong).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenwell import __version__
from tokenwell.cli import options
from tokenwell.wire.errors import SettingsError, TokenwellError


def _plain_app(about: str) -> typer.Typer:
    """A group of commands with plain text for help and errors: boxes and colours break in logs and pipes."""
    return typer.Typer(
        help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


app = _plain_app("A private, fast token service for agents on the cards you own.")
config_app = _plain_app("The settings and where they come from.")
app.add_typer(config_app, name="config")


@app.command()
def serve(
    context: typer.Context,
    model: options.Model = None,
    host: options.Host = None,
    port: options.Port = None,
    api_key: options.ApiKey = None,
    served_model_name: options.Name = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    load_format: options.LoadFormat = None,
    tp: options.TensorParallel = None,
    replicas: options.Replicas = None,
    goal: options.Goal = None,
    strict: options.Strict = False,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_gib: options.KvCacheGib = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    ple_offload: options.PleOffload = None,
    no_graphs: options.NoGraphs = False,
    page_tokens: options.PageTokens = None,
    no_prefix_cache: options.NoPrefixCache = False,
    threads: options.Threads = None,
    chat_template: options.ChatTemplate = None,
    chat_format: options.ChatFormat = None,
    tpot_ms: options.TpotMs = None,
    ttft_ms: options.TtftMs = None,
    die_after: options.DieAfter = None,
    stall_after: options.StallAfter = None,
    garbage_after: options.GarbageAfter = None,
    fault_once: options.FaultOnce = False,
    log_level: options.LogLevel = None,
    config: options.Config = None,
) -> None:
    """Serve a model to OpenAI clients until interrupted."""
    from tokenwell.cli.model import SCRIPTED, with_model

    loaded = options.load_with_flags(context)
    settings, promise = with_model(loaded), None
    if loaded.settings.model.path != SCRIPTED:
        from tokenwell.cli.planned import planned

        settings, promise = planned(loaded, settings)
    from tokenwell.api import server  # after the settings are known to be good: it takes longest

    run_service = server.serve_scripted if loaded.settings.model.path == SCRIPTED else server.serve
    raise typer.Exit(run_service(settings, promise=promise))


@app.command()
def chat(
    url: options.AskedEndpoint = None,
    model: options.AskedModel = None,
    api_key: options.EndpointKey = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="How the model shall behave.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="0 always says the likeliest [the endpoint's].", min=0, max=100),
    ] = None,
    tools: Annotated[
        Path | None,
        typer.Option("--tools", metavar="FILE", help="JSON list of tools that the model may call; you type the results."),
    ] = None,
    config: options.Config = None,
) -> None:
    """Talk to a running service in the terminal; through a pipe, answer once."""
    from tokenwell.cli.chat import chat as run_chat
    from tokenwell.config.load import load

    server = load({}, config).settings.server
    raise typer.Exit(run_chat(server, url=url, key=api_key, model=model, system=system, temperature=temperature, tools=tools))


@app.command()
def agent(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What is to be done, in your words.", show_default=False)],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="The folder it works in; it reaches nothing outside.")
    ] = Path("."),
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Any OpenAI-compatible endpoint [where `serve` would be with these settings]."),
    ] = None,
    model: options.AskedModel = None,
    api_key: options.EndpointKey = None,
    max_turns: Annotated[int, typer.Option("--max-turns", metavar="N", help="Answers of the model at most.")] = 12,
    offline: Annotated[
        bool, typer.Option("--offline", help="Take the weather from a fixture instead of the network.", show_default=False)
    ] = False,
    config: options.Config = None,
) -> None:
    """Let a model work on a task: it reads and writes files of a folder, asks for the weather and sets reminders."""
    from tokenwell.cli.agent import agent as run_agent
    from tokenwell.config.load import load

    server = load({}, config).settings.server
    raise typer.Exit(
        run_agent(task, server, url=url, key=api_key, model=model, folder=folder, offline=offline, max_turns=max_turns)
    )


@app.command()
def check(
    url: options.AskedEndpoint = None,
    model: options.AskedModel = None,
    api_key: options.EndpointKey = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Only single, turns or talk [all].", show_default=False)
    ] = "",
    language: Annotated[
        str, typer.Option("--language", metavar="LANGUAGE", help="Only en or zh [both].", show_default=False)
    ] = "",
    tasks: Annotated[
        int | None, typer.Option("--tasks", metavar="N", help="At most so many of each kind and language [all 500].")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", help="So many tasks at a time.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="PERCENT", help="What is enough, for every kind [95; for tasks of several turns 90]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", show_default=False)] = False,
    config: options.Config = None,
) -> None:
    """Test whether a model is ready for agents: it calls tools, finishes tasks, and knows when to leave tools alone.

    Ends with 1 when it is not, and with 2 when the endpoint cannot be used.
    """
    from tokenwell.cli.check import Wish
    from tokenwell.cli.check import check as run_check
    from tokenwell.config.load import load

    wish = Wish(kind, language, tasks, parallel, threshold, as_json)
    raise typer.Exit(run_check(load({}, config).settings.server, wish, url=url, key=api_key, model=model))


@app.command()
def connect(
    client: Annotated[
        str,
        typer.Argument(metavar="CLIENT", help="openclaw, claude-code, codex, opencode, open-webui or aider.", show_default=False),
    ],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where the service is [where `serve` would be with these settings]."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Change the client's files, keeping copies, instead of printing.", show_default=False)
    ] = False,
    api_key: Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="A key that the service accepts.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="One of the served names [the first].")] = None,
    config: options.Config = None,
) -> None:
    """Print, or write, the configuration of an agent for the running service."""
    from tokenwell.cli.connect.command import connect as run_connect
    from tokenwell.config.load import load

    run_connect(client, load({}, config).settings.server, url=url, key=api_key, model=model, write=write, home=Path.home())


@app.command()
def plan(
    context: typer.Context,
    model: options.PlannedModel = None,
    gpu: options.Gpu = None,
    engine: options.PlannedEngine = "native",
    batch: options.Batch = 1,
    prompt_tokens: options.PromptTokens = 1024,
    context_tokens: options.ContextTokens = None,
    printed: options.Printed = None,
    device: options.Device = None,
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tp: options.TensorParallel = None,
    replicas: options.Replicas = None,
    goal: options.Goal = None,
    strict: options.Strict = False,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_gib: options.KvCacheGib = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    ple_offload: options.PleOffload = None,
    no_graphs: options.NoGraphs = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", show_default=False)] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every number's formula and every reason.", show_default=False)
    ] = False,
    config: options.Config = None,
) -> None:
    """Tell what a model takes and does on some cards, or on this machine, before anything is loaded."""
    from tokenwell.cli.plan import plan as run_plan

    loaded = options.load_with_flags(context)
    run_plan(
        loaded, model or _default_model(), gpu or (), engine=engine, batch=batch, prompt_tokens=prompt_tokens,
        context_tokens=context_tokens, printed=printed, json=as_json, explained=explain,
    )  # fmt: skip


def _default_model() -> str:
    from tokenwell.bundled.checkpoint import bundled_checkpoint

    return str(bundled_checkpoint())


@app.command()
def doctor(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Folder whose disk is examined too [the cache].")] = None,
    port: options.Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", show_default=False)] = False,
    machine: Annotated[
        Path | None, typer.Option("--machine", metavar="FILE", help="Examine a recorded machine, or a folder with one's files.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Write down what was looked at, for others to examine.")
    ] = None,
    config: options.Config = None,
) -> None:
    """Look for what is wrong with this machine, and print what mends it. Changes nothing."""
    from tokenwell.cli.doctor import doctor as run_doctor

    loaded = options.load_with_flags(context)
    raise typer.Exit(run_doctor(loaded, json=as_json, machine_file=machine, record_file=record))


@config_app.command()
def show(
    context: typer.Context,
    model: options.Model = None,
    host: options.Host = None,
    port: options.Port = None,
    api_key: options.ApiKey = None,
    served_model_name: options.Name = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    load_format: options.LoadFormat = None,
    tp: options.TensorParallel = None,
    replicas: options.Replicas = None,
    goal: options.Goal = None,
    strict: options.Strict = False,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_gib: options.KvCacheGib = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    ple_offload: options.PleOffload = None,
    no_graphs: options.NoGraphs = False,
    page_tokens: options.PageTokens = None,
    no_prefix_cache: options.NoPrefixCache = False,
    threads: options.Threads = None,
    chat_template: options.ChatTemplate = None,
    chat_format: options.ChatFormat = None,
    tpot_ms: options.TpotMs = None,
    ttft_ms: options.TtftMs = None,
    die_after: options.DieAfter = None,
    stall_after: options.StallAfter = None,
    garbage_after: options.GarbageAfter = None,
    fault_once: options.FaultOnce = False,
    log_level: options.LogLevel = None,
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", show_default=False)] = False,
) -> None:
    """Print every setting with its value and where it was set; takes the flags of `serve`."""
    from tokenwell.cli import listing

    loaded = options.load_with_flags(context)
    print(listing.as_json(loaded) if as_json else listing.as_toml(loaded))


def _version(wanted: bool = True) -> None:
    if wanted:
        print(f"tokenwell {__version__}")
        raise typer.Exit


@app.command()
def version() -> None:
    """Print the version."""
    _version()


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", show_default=False, is_eager=True, callback=_version)
    ] = False,
) -> None:
    """A private, fast token service for agents on the cards you own."""


def main() -> int:
    """Run the command line of this process: its own errors become one message on stderr and an exit code.

    What is wrong with the command line itself is told by typer, which ends the process with code 2.
    """
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal or a pipe cannot say is no reason to fail
            stream.reconfigure(errors=errors)
    try:
        app(prog_name="tokenwell")
    except TokenwellError as error:
        from tokenwell.cli.screen import harmless

        print(f"tokenwell: {harmless(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    return 0
