"""`edgeskip bench run` and `serve`: measure artifacts on every processor and device asked for, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeskip.cli import messages
from edgeskip.cli.command import CommandGroup, register, takes_options_of
from edgeskip.cli.commands.compare import compare
from edgeskip.cli.commands.report import report as write_page
from edgeskip.cli.options import (
    HARDWARE,
    OUTPUT,
    SAMPLING,
    ChatOptions,
    Format,
    Json,
    complete_artifact,
    output_option,
    split_old_format,
)
from edgeskip.cli.progress import progress_bar
from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.bench.benchmark import BenchResult
    from edgeskip.bench.devices.web.serve_config import ServeOptions

TESTS, PROMPTS, QUALITY = "Synthetic tests", SAMPLING, "Quality"
PHONES, BROWSERS, REMOTE, PAGE = "Android phone", "Browser here", "Other machines, over ssh", "Page for other devices"


def run(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET",
            help="Artifact folders and .gguf files; NAME=PATH gives one a name.",
            autocompletion=complete_artifact,
        ),
    ],
    prompt_tokens: Annotated[
        str,
        typer.Option(
            "--n-prompt", "-p", metavar="N,…", help="Tokens of random prompts; 0 = none.", rich_help_panel=TESTS
        ),
    ] = "512",
    new_tokens: Annotated[
        str,
        typer.Option(
            "--n-gen", "-n", metavar="N,…", help="Tokens to decode one by one; 0 = none.", rich_help_panel=TESTS
        ),
    ] = "128",
    depths: Annotated[
        str,
        typer.Option(
            "--n-depth", "-d", metavar="N,…", help="Tokens in the KV cache before either.", rich_help_panel=TESTS
        ),
    ] = "0",
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the random tokens.", rich_help_panel=TESTS)
    ] = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts: .jsonl with `prompt` or `turns`, or one per line.",
            show_default="six that ship",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of prompts; 0 = no serving figures.",
            show_default="three that ship, all of yours",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Maximum tokens of an answer.", rich_help_panel=PROMPTS)
    ] = 128,
    chat_option: ChatOptions = None,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="plain, self-speculative (the artifact's own draft), speculative (draft and n-grams), online.",
        ),
    ] = "plain",
    rounds: Annotated[
        int,
        typer.Option(
            "--repetitions", "-r", metavar="N", min=1, help="Rounds; every cell runs in a fresh process in each."
        ),
    ] = 5,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="Target that ratios refer to; repeat for one per engine.",
            show_default="each engine's first",
        ),
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text to measure each target's loss on.",
            show_default="one that ships",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    no_quality: Annotated[
        bool, typer.Option("--no-quality", help="Do not measure the loss.", rich_help_panel=QUALITY)
    ] = False,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            "-t",
            metavar="N,…",
            help="Numbers of threads.",
            show_default="physical cores",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Processors: cpu, cuda, openvino, …; web, web:gpu: in a browser on this machine.",
            rich_help_panel=HARDWARE,
        ),
    ] = "cpu",
    allow_fallback: Annotated[
        bool,
        typer.Option(
            "--allow-fallback",
            help="Run on the CPU if a provider cannot be used; the rows say so.",
            rich_help_panel=HARDWARE,
        ),
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER=PATH",
            help="Interpreter for a provider that needs another build of onnxruntime.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    no_local: Annotated[
        bool, typer.Option("--no-local", help="Do not measure on this machine.", rich_help_panel=HARDWARE)
    ] = False,
    browser: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Browser for the providers web and web:gpu.",
            show_default="the one found",
            rich_help_panel=BROWSERS,
        ),
    ] = None,
    throttle: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Slow the browser down X times, like a phone; the rows say so.", rich_help_panel=BROWSERS
        ),
    ] = None,
    web_packages: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="npm archives of the page.",
            show_default="downloaded with npm",
            rich_help_panel=BROWSERS,
        ),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER@HOST",
            help="Measure there too: a board or server with Python; repeatable.",
            rich_help_panel=REMOTE,
        ),
    ] = None,
    remote_python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Interpreter there that has what EdgeSkip needs.",
            show_default="an environment made there",
            rich_help_panel=REMOTE,
        ),
    ] = None,
    remote_cache: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder there for artifacts.",
            show_default="~/.cache/edgeskip/bench",
            rich_help_panel=REMOTE,
        ),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key for ssh.", rich_help_panel=REMOTE)
    ] = None,
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Same as ssh's -o; repeatable.", rich_help_panel=REMOTE),
    ] = None,
    adb: Annotated[
        bool, typer.Option("--adb", help="Measure GGUF files on an Android phone too.", rich_help_panel=PHONES)
    ] = False,
    adb_serial: Annotated[
        str | None, typer.Option(metavar="SERIAL", help="Phone, as `adb devices` lists it.", rich_help_panel=PHONES)
    ] = None,
    llama_bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="llama.cpp's llama-bench, built for Android.", rich_help_panel=PHONES),
    ] = None,
    output: Annotated[
        str | None,
        output_option(
            "JSONL file for every measurement; must not exist.  [default: edgeskip-bench-TIME.jsonl]", "FILE"
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option("--log", hidden=True)] = None,  # what -o was called
    format: Format = "md",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page of `edgeskip bench report` too.", rich_help_panel=OUTPUT),
    ] = None,
    json: Json = False,
) -> None:
    """Measure speed, memory and quality of artifacts.

    Runs llama-bench's synthetic tests and answers real prompts. Exits 1 if a cell failed. With --json (as with
    --format json): {"format", "lines": [{"kind", …}]}, the records of --output; `bench report` and `compare` read it.
    """
    _measure(**locals())


def serve(
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address; 0.0.0.0 opens it to the network.", rich_help_panel=PAGE)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 = any free one.", rich_help_panel=PAGE)
    ] = 0,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop after so many devices are done.",
            show_default="until Ctrl-C",
            rich_help_panel=PAGE,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own certificate for https, PEM.",
            show_default="a self-signed one",
            rich_help_panel=PAGE,
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.", rich_help_panel=PAGE)
    ] = None,
    plain_http: Annotated[
        bool,
        typer.Option(
            "--plain-http", help="No https; browsers then give the page one thread and no WebGPU.", rich_help_panel=PAGE
        ),
    ] = False,
    **measuring: Any,
) -> None:
    """Measure here, then on every phone or browser that opens a page.

    Prints the page's address and a QR code. Takes the options of `edgeskip bench run`, and prints what it prints.
    """
    from edgeskip.bench.devices.web.serve_config import ServeOptions

    packages = measuring["web_packages"]
    _measure(**measuring, page=ServeOptions(host, port, devices, certificate, key, plain_http, packages))


def _measure(
    *,
    format: str,
    output: str | None,
    log: Path | None,
    report: Path | None,
    json: bool,
    quality: Path | None,
    no_quality: bool,
    page: ServeOptions | None = None,
    **options: Any,
) -> None:
    from edgeskip.bench.analysis.table import FORMATS, format_run, warnings_of
    from edgeskip.bench.benchmark import run_benchmark
    from edgeskip.bench.config import BenchConfig, default_log
    from edgeskip.bench.report.page import write_report
    from edgeskip.bench.report.plot_style import need_matplotlib
    from edgeskip.core.files import refuse_file
    from edgeskip.core.held_out import HELD_OUT_TEXT

    path, form = split_old_format(output, format, FORMATS)
    if log is not None and path is not None:
        raise EdgeSkipError("--log is another name of --output; give one of them")
    if path is not None and path.suffix != ".jsonl":
        raise EdgeSkipError(f"-o {path} does not end in .jsonl; name a file for the records, or --format for the table")
    if no_quality and quality is not None:
        raise EdgeSkipError("--quality and --no-quality contradict each other; drop one of them")
    args, devices = _options(**options)
    config = BenchConfig.from_args(args)
    record = log or path or default_log(config.header)
    if report is not None:
        need_matplotlib()
        refuse_file(report, overwrite=False, option="--report", replaceable=False)
    with progress_bar(refresh=True) as bar:
        result = run_benchmark(
            config,
            devices,
            serve=page,
            quality=None if no_quality else quality or HELD_OUT_TEXT,
            log=record,
            progress=bar,
            note=messages.status,
        )
    print(format_run(result.run, "json" if json else form), flush=True)
    for line in warnings_of(result.run):
        messages.status(f"note: {line}")
    messages.status(f"every measurement is in {record}" + (": interrupted" if result.interrupted else ""))
    if report is not None and result.run.samples:
        write_report([record], report, png_folder=None, overwrite=True)
        messages.status(f"the report is {report}")
    _exit(result)


def _options(
    *,
    targets: list[str],
    baseline: list[str] | None,
    python: list[str] | None,
    chat_option: list[str] | None,
    no_local: bool,
    remote: list[str] | None,
    ssh_option: list[str] | None,
    **options: Any,
) -> tuple[Any, Any]:
    """Return what to measure and on which devices."""
    from dataclasses import fields

    from edgeskip.bench.config import BenchArgs
    from edgeskip.bench.devices.options import DeviceOptions
    from edgeskip.cli.chat_options import parse_chat_options

    elsewhere = {field.name for field in fields(DeviceOptions)} & options.keys()
    devices = DeviceOptions(
        local=not no_local,
        remotes=tuple(remote or ()),
        ssh_options=tuple(ssh_option or ()),
        **{name: options.pop(name) for name in elsewhere},
    )
    args = BenchArgs(
        targets=targets,
        baselines=baseline or [],
        pythons=python or [],
        chat_options=parse_chat_options(chat_option),
        **options,
    )
    return args, devices


def _exit(result: BenchResult) -> None:
    if result.error is not None:
        raise result.error
    if result.interrupted:
        raise typer.Exit(130)
    if result.run.failures:
        raise typer.Exit(1)


class BenchGroup(CommandGroup):
    """`edgeskip bench run`, …; also the old `edgeskip bench TARGET…`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command before the words of the old spelling."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            if "--serve" in args:
                messages.note_later("`edgeskip bench --serve TARGET…` is now spelled `edgeskip bench serve TARGET…`")
                args = ["serve", *(word for word in args if word != "--serve")]
            else:
                messages.note_later("`edgeskip bench TARGET…` is now spelled `edgeskip bench run TARGET…`")
                args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=BenchGroup, help="Measure speed, memory and quality, and report them.", no_args_is_help=True)
register(app, run)
register(app, takes_options_of(run)(serve))
register(app, write_page, "report")
register(app, compare, "compare")
