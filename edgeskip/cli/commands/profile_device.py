"""`edgeskip profile-device`: measures what each sublayer of a dense artifact costs on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import ArtifactArg, Json, Overwrite, Provider, Threads, output_option
from edgeskip.cli.progress import progress_bar
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_numbers
from edgeskip.core.progress import Steps
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.profiles.device_profile import DeviceProfile, StepCost


def profile_device(
    artifact: ArtifactArg,
    output: Annotated[Path, output_option("Device profile to write, e.g. phone.json.", "FILE.json")],
    contexts: Annotated[
        str,
        typer.Option(metavar="N,…", help="Measure decoding after so many tokens; skips lengths beyond the model's."),
    ] = "0,512,2048",
    prompt: Annotated[int, typer.Option(metavar="N", help="Length of the prompt that prefill is measured with.")] = 512,
    rounds: Annotated[int, typer.Option(metavar="N", help="Number of rounds.")] = 4,
    threads: Threads = None,
    provider: Provider = "cpu",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Measure each sublayer on this device, for `edgeskip plan`.

    The artifact must be dense and exported without a draft; an ONNX artifact can only be timed on the CPU. The machine
    should be idle. With --json: the device profile, as written to --output.
    """
    from edgeskip.core.files import refuse_file
    from edgeskip.core.locks import hold
    from edgeskip.profiles.device_profile import write_device_profile
    from edgeskip.profiling.measure import measure_device, open_dense, settle

    lengths = parse_numbers(contexts, "--contexts", example="0,512")
    if output.suffix != ".json":
        raise EdgeSkipError(f"{output} does not end in .json; name the device profile, e.g.  -o phone.json")
    refuse_file(output, overwrite=overwrite)
    hold(output)
    refuse_file(output, overwrite=overwrite)  # another process may have written it before this one claimed it
    opened = open_dense(artifact, provider=provider, threads=threads)
    request = settle(opened, prompt, lengths, rounds)
    messages.detail(f"{opened.engine}, {opened.provider}, {opened.threads} threads, {opened.precision}")
    with progress_bar(refresh=True) as bar:
        steps = Steps(bar, "measuring", request.runs)
        profile = measure_device(opened, request, steps.end)
    write_device_profile(profile, output, overwrite=overwrite)
    if json:
        print_json(profile.model_dump(mode="json"))
    else:
        _show(profile, output)


def _show(profile: DeviceProfile, path: Path) -> None:
    from edgeskip.cli.views.tables import show, show_line, table

    rows: list[tuple[str, StepCost]] = [(f"prefill of {profile.prefill.tokens}", profile.prefill)]
    rows += [(f"decode at {cost.context}", cost) for cost in profile.decode]
    shown = table("ms", ">step", ">attention", ">FFN", ">rest")
    for label, cost in rows:
        parts = (cost.total_s, sum(cost.sublayer_s[::2]), sum(cost.sublayer_s[1::2]), cost.base_s)
        shown.add_row(label, *(f"{1e3 * seconds:.2f}" for seconds in parts))
    show(shown)
    show_line(f"{path}: {profile.model.name} on {profile.name}")
