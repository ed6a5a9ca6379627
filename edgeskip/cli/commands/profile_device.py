"""`edgeskip profile-device`: measures what each sublayer of a dense artifact costs on this device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeskip.core.named_path import named_path

if TYPE_CHECKING:
    from edgeskip.profiles.device_profile import DeviceProfile, StepCost


def profile_device(
    artifact: Annotated[
        Path, typer.Argument(parser=named_path, help="A dense artifact folder or .gguf file, exported without a draft.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The device profile to write, e.g. phone.json.")],
    contexts: Annotated[
        str, typer.Option(help="Decode behind so many tokens; lengths that the model does not hold are left out.")
    ] = "0,512,2048",
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt that prefill is measured with.")] = 512,
    rounds: Annotated[int, typer.Option(help="Rounds of measuring.")] = 4,
    threads: Annotated[int | None, typer.Option(help="Threads.", show_default="physical cores")] = None,
    provider: Annotated[str, typer.Option(help="Processor to run on; ONNX artifacts can be timed on the cpu.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at -o.")] = False,
) -> None:
    """Measure what each sublayer costs on this device, for edgeskip plan to weigh. Wants a quiet machine."""
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.files import refuse_file
    from edgeskip.core.locks import hold
    from edgeskip.core.whole_number import whole_numbers
    from edgeskip.profiles.device_profile import write_device_profile
    from edgeskip.profiling.measure import measure_device, open_dense, settle

    lengths = whole_numbers(contexts)
    if lengths is None:
        raise EdgeSkipError(f"--contexts {contexts:.60} is no list of lengths: give some as in 0,512")
    if output.suffix != ".json":
        raise EdgeSkipError(f"{output} does not end in .json: name the device profile, e.g.  -o phone.json")
    refuse_file(output, overwrite=overwrite)
    hold(output)
    refuse_file(output, overwrite=overwrite)  # whoever had claimed it may have made it
    opened = open_dense(artifact, provider=provider, threads=threads)
    request = settle(opened, prompt, lengths, rounds)
    with _progress(request.runs) as advance:
        profile = measure_device(opened, request, advance)
    write_device_profile(profile, output, overwrite=overwrite)
    _show(profile, output)


def _show(profile: DeviceProfile, path: Path) -> None:
    from rich.table import Table

    from edgeskip.core.terminal import Console

    console = Console(highlight=False, markup=False)
    table = Table("ms", box=None)
    for heading in ("step", "attention", "FFN", "rest"):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, StepCost]] = [(f"prefill of {profile.prefill.tokens}", profile.prefill)]
    rows += [(f"decode at {cost.context}", cost) for cost in profile.decode]
    for label, cost in rows:
        parts = (cost.total_s, sum(cost.sublayer_s[::2]), sum(cost.sublayer_s[1::2]), cost.base_s)
        table.add_row(label, *(f"{1e3 * seconds:.2f}" for seconds in parts))
    console.print(table)
    console.print(f"{path}: {profile.model.name} on {profile.name}", soft_wrap=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from edgeskip.core.progress import progress_display

    with progress_display(refresh=True) as shown:
        done = 0
        shown.update("measuring", 0, total)

        def advance() -> None:
            nonlocal done
            done += 1
            shown.update("measuring", done, total)

        yield advance
