"""`edgeskip bench`: measures artifacts on every processor asked for, here and on other devices, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeskip.cli import messages
from edgeskip.cli.command import Group, register
from edgeskip.cli.commands.compare import compare
from edgeskip.cli.commands.report import report as write_page


def bench(
    targets: Annotated[
        list[str], typer.Argument(help="Artifact folders and .gguf files; NAME=PATH names one.", metavar="TARGET")
    ],
    prompt_tokens: Annotated[
        str, typer.Option("--n-prompt", "-p", help="Tokens of the random prompts; 0 = none.", metavar="N,…")
    ] = "512",
    new_tokens: Annotated[
        str, typer.Option("--n-gen", "-n", help="Tokens decoded one by one; 0 = none.", metavar="N,…")
    ] = "128",
    depths: Annotated[
        str, typer.Option("--n-depth", "-d", help="Tokens in the KV cache before either.", metavar="N,…")
    ] = "0",
    rounds: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Rounds; in each, every cell runs in a fresh process.")
    ] = 5,
    threads: Annotated[
        str | None, typer.Option("--threads", "-t", help="Threads.", metavar="N,…", show_default="physical cores")
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            help="Processors: cpu, cuda, openvino, … as `run` takes them; web, web:gpu: in a browser here.",
            metavar="NAME,…",
        ),
    ] = "cpu",
    strategy: Annotated[
        str,
        typer.Option(
            help="plain, self-speculative (the artifact's own draft), speculative (that and n-grams), online.",
            metavar="NAME,…",
        ),
    ] = "plain",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Real prompts: JSONL with `prompt` or `turns`, or one a line.", show_default="six that ship"),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            min=0, help="So many of them; 0 = no serve_options figures.", show_default="three that ship, all of yours"
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 128,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Target that ratios are to; repeat for one per engine.", show_default="each engine's first"),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(help="Text to measure each target's loss on.", show_default="one that ships")
    ] = None,
    no_quality: Annotated[bool, typer.Option("--no-quality", help="Leave the loss unmeasured.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="Print as md, json, jsonl or csv.")] = "md",
    log: Annotated[
        Path | None,
        typer.Option(help="JSONL file that every measurement goes to.", show_default="edgeskip-bench-TIME.jsonl"),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the page of `edgeskip report` too, here.")] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Run on the CPU where a provider cannot; the rows say so.")
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(help="Interpreter for a provider whose onnxruntime is another build.", metavar="PROVIDER=PATH"),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure there too, over ssh: a board or server with Python; repeatable.", metavar="USER@HOST"
        ),
    ] = None,
    remote_python: Annotated[
        str | None,
        typer.Option(help="Interpreter there that has what EdgeSkip needs.", show_default="an environment made there"),
    ] = None,
    remote_cache: Annotated[
        str | None, typer.Option(help="Folder there for artifacts.", show_default="~/.cache/edgeskip/bench")
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="Private key for ssh.")] = None,
    ssh_option: Annotated[list[str] | None, typer.Option(help="As ssh's -o; repeatable.", metavar="KEY=VALUE")] = None,
    adb: Annotated[bool, typer.Option("--adb", help="Measure GGUF files on an Android phone too.")] = False,
    adb_serial: Annotated[str | None, typer.Option(help="Which phone, as `adb devices` names it.")] = None,
    llama_bench: Annotated[
        Path | None, typer.Option(help="llama.cpp's llama-bench, built for Android, to run there.")
    ] = None,
    browser: Annotated[
        str | None, typer.Option(help="Browser for the providers web and web:gpu.", show_default="the one found")
    ] = None,
    throttle: Annotated[
        float | None, typer.Option(help="That browser so many times slower, as in a phone; rows say so.")
    ] = None,
    web_packages: Annotated[
        Path | None, typer.Option(help="Folder with the page's npm archives.", show_default="npm brings them")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve a page that measures whatever phone opens it.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 = any that is free.")] = 0,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Serve until so many devices are done.", show_default="until Ctrl-C")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Your own for https, PEM.", show_default="a self-signed one")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="No https: browsers give the page one thread and no WebGPU.")
    ] = False,
    no_local: Annotated[bool, typer.Option("--no-local", help="Measure on the other devices only.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random tokens.")] = 0,
) -> None:
    """Measure speed, memory and loss: synthetic tests as llama-bench has them, and real prompts answered."""
    import sys

    from edgeskip.bench.analysis.table import FORMATS, format_run, warnings_of
    from edgeskip.bench.benchmark import run_benchmark
    from edgeskip.bench.config import BenchArgs, BenchConfig, default_log
    from edgeskip.bench.devices.options import DeviceOptions
    from edgeskip.bench.devices.web.serve_config import ServeOptions
    from edgeskip.bench.report.page import write_report
    from edgeskip.bench.report.plot_style import need_matplotlib
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.files import refuse_file
    from edgeskip.core.held_out import HELD_OUT_TEXT
    from edgeskip.core.progress import progress_display

    if output not in FORMATS:
        raise EdgeSkipError(f"-o {output} is unknown: choose from {', '.join(FORMATS)}")
    if no_quality and quality is not None:
        raise EdgeSkipError("--quality and --no-quality contradict each other: leave one out")
    args = BenchArgs(
        targets=targets,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        depths=depths,
        threads=threads,
        provider=provider,
        strategy=strategy,
        prompts=prompts,
        num_prompts=num_prompts,
        max_tokens=max_tokens,
        rounds=rounds,
        baselines=baseline or [],
        allow_fallback=allow_fallback,
        pythons=python or [],
        seed=seed,
    )
    config = BenchConfig.from_args(args)
    path = log or default_log(config.header)
    if report is not None:
        need_matplotlib()
        refuse_file(report, overwrite=False, option="--report", replaceable=False)
    page_options = (host != "127.0.0.1", port, devices, certificate, key, plain_http)
    if not serve and any(page_options):
        raise EdgeSkipError("--host, --port, --devices, --certificate, --key and --plain-http need --serve")
    options = DeviceOptions(
        local=not no_local,
        browser=browser,
        throttle=throttle,
        web_packages=web_packages,
        remotes=tuple(remote or ()),
        remote_python=remote_python,
        remote_cache=remote_cache,
        identity=identity,
        ssh_options=tuple(ssh_option or ()),
        adb=adb,
        adb_serial=adb_serial,
        llama_bench=llama_bench,
    )
    serve_options = ServeOptions(host, port, devices, certificate, key, plain_http, web_packages) if serve else None
    with progress_display(refresh=True) as shown:
        result = run_benchmark(
            config,
            options,
            serve=serve_options,
            quality=None if no_quality else quality or HELD_OUT_TEXT,
            log=path,
            progress=lambda event: shown.update(event.stage, event.done, event.total, event.detail),
            note=shown.note,
        )
    print(format_run(result.run, output), flush=True)
    for line in warnings_of(result.run):
        print(f"note: {line}", file=sys.stderr)
    shown.note(f"every measurement is in {path}" + (": interrupted" if result.interrupted else ""))
    if report is not None and result.run.samples:
        write_report([path], report, png_folder=None, overwrite=True)
        shown.note(f"the report is {report}")
    if result.error is not None:
        raise result.error
    if result.interrupted:
        raise typer.Exit(130)
    if result.run.failures:
        raise typer.Exit(1)


class BenchGroup(Group):
    """`edgeskip bench run`, …; also the old `edgeskip bench TARGET…`, which runs at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` before the words of the old spelling."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            messages.note_later("`edgeskip bench TARGET…` is now spelled `edgeskip bench run TARGET…`")
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=BenchGroup, help="Measure artifacts, here and on other devices.", no_args_is_help=True)
register(app, bench, "run")
register(app, write_page, "report")
register(app, compare, "compare")
