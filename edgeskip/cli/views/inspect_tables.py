"""What `edgeskip inspect` prints of a profile, an artifact folder and a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from edgeskip.cli.views.draft_facts import HEADS, draft_facts, exit_facts
from edgeskip.cli.views.inspection import ArtifactReport, ProfileReport
from edgeskip.cli.views.pareto import front_line
from edgeskip.cli.views.tables import facts as fact_grid
from edgeskip.cli.views.tables import show, table
from edgeskip.core.plan_cost import cost_facts
from edgeskip.core.sublayers import KINDS, Sublayer

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.inspection import GgufReport
    from edgeskip.artifacts.manifest import OnlineRecord, PlanSummary, VerificationRecord
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.profiles.schema import ModelRecord


def show_report(report: ProfileReport | ArtifactReport | GgufReport) -> None:
    """Print what was found."""
    if isinstance(report, ProfileReport):
        _show_profile(report)
    elif isinstance(report, ArtifactReport):
        _show_artifact(report)
    else:
        _show_gguf(report)


def _show_profile(report: ProfileReport) -> None:
    from edgeskip.models.location import found_at

    profile, plan = report.profile, report.profile.plan
    skipped = set(plan.skip) if plan else set()
    calibration = profile.calibration
    found = found_at(profile, report.path)
    if found is None and profile.model_location is not None:
        found = Path(profile.model_location.absolute + ": missing")
    facts = {
        "profile": str(report.path),
        "model": f"{profile.model.name} ({profile.model.family}, {profile.model.num_blocks} blocks, "
        f"hidden size {profile.model.hidden_size})",
        "source": profile.model.source + ("" if found is None else f" ({found})"),
        "fingerprint": profile.model.fingerprint[:16],
        "calibrated": f"{calibration.created}, context {calibration.context} tokens, seed {calibration.seed}, "
        f"{calibration.dtype}",
        "corpus": ", ".join(f"{file.name} (sha256 {file.sha256[:8]})" for file in calibration.corpus),
        "plan": f"{plan.method}, compensation {plan.compensation}: lossy-skip, {len(plan.skip)} of "
        f"{len(profile.sublayers)} sublayers: {', '.join(plan.skip)}"
        if plan and plan.skip
        else "dense (none skipped)",
    }
    if (lora := report.lora) is not None:
        ranks = ", ".join(map(str, lora.ranks))
        facts["LoRA"] = f"{lora.file}, rank {ranks} on {lora.num_layers} linear layers, {_size(lora.size_bytes)}"
    if plan and plan.skip:
        facts |= cost_facts(report.cost) or {"plan against dense": "not measured: plan again, or see the export"}
    if plan and plan.beta is not None:
        facts["threshold β"] = f"{plan.beta:.4f}"
    if plan and plan.decode_skip:
        facts["while decoding"] = f"also without {', '.join(plan.decode_skip)}, after P = {plan.window} tokens"
    if profile.front is not None:
        facts["Pareto front"] = front_line(profile.front)
    facts |= exit_facts(profile)
    show(fact_grid(facts))

    columns = [column for kind in KINDS for column in (f">{kind} prefill", ">decode", ">scale", "")]
    caption = "IO similarity; scale = mean ‖after‖/‖before‖, prefill"
    rows = table(">layer", *columns, caption=caption, min_width=60)
    for block in range(profile.model.num_blocks):
        cells: list[str | Text] = []
        for kind in KINDS:
            sublayer = Sublayer(block, kind)
            of_kind = profile.statistics(sublayer)
            cells.append(f"{of_kind.prefill.similarity:.4f}")
            cells.append(f"{of_kind.decode.similarity:.4f}" if of_kind.decode else "-")
            cells.append(f"{of_kind.prefill.scale:.3f}")
            cells.append(Text("skip" if str(sublayer) in skipped else "", style="bold red"))
        rows.add_row(str(block), *cells)
    show(rows)


def _show_artifact(report: ArtifactReport) -> None:
    manifest = report.manifest
    graph, plan, check = manifest.graph, manifest.plan, manifest.verification
    quantisation = ", ".join(f"{key} {value}" for key, value in graph.quantisation.items())
    facts: dict[str, str | Text] = {
        "artifact": str(report.path),
        "label": Text(manifest.label, style="bold"),
        "model": f"{manifest.model.name} ({manifest.model.family}, {plan.num_blocks} blocks)",
        "source": _source(manifest.model),
        "precision": graph.precision + (f" ({quantisation})" if quantisation else "") + f", KV cache {graph.kv_dtype}",
        "skipped": _skipped(plan),
        "compensation": plan.compensation if plan.skip else "none",
        **draft_facts(manifest.draft),
        **_online(manifest.online),
        "context": f"{graph.context_length} tokens",
        "size": _size(report.size_bytes),
        **_cost(manifest.cost, bool(plan.skip), drafts=manifest.draft is not None),
        "verified": _verified(check),
        "created": _created(manifest.created, manifest.versions),
    }
    show(fact_grid(facts))

    rows = table("file", ">size", "sha256", min_width=60)
    for file in report.files:
        style = "bold red" if file.state in {"damaged", "missing"} else ""
        rows.add_row(file.name, _size(file.size_bytes), file.state, style=style)
    show(rows)


def _show_gguf(report: GgufReport) -> None:
    manifest = report.manifest
    types = ", ".join(f"{count} {name}" for name, count in report.tensor_types.items())
    facts: dict[str, str | Text] = {"GGUF": str(report.path)}
    if manifest is None:
        facts["label"] = Text("none: not made by EdgeSkip", style="bold")
        facts["model"] = report.name or "unnamed"
    else:
        facts["label"] = Text(manifest.label, style="bold")
        facts["model"] = f"{manifest.model.name} ({manifest.model.family}, {manifest.plan.num_blocks} blocks)"
        facts["source"] = _source(manifest.model)
        if manifest.part != "whole":
            facts["part"] = f"{manifest.part} of a pair, exit layer {manifest.exit_layer}"
            facts["partner"] = f"{_file(manifest.partner, report.partner_found)}; together {manifest.pair_label}"
        if manifest.draft is not None:
            facts["draft"] = f"{_file(manifest.draft, report.draft_found)}; for the same output, faster"
        if manifest.decode is not None:
            facts["decode"] = f"{_file(manifest.decode, report.decode_found)} takes over after {manifest.window} tokens"
        if manifest.head is not None:
            agreed = "" if manifest.agreement is None else f", agrees with the full model on {manifest.agreement:.1%}"
            facts["draft head"] = ("the model's own" if manifest.head == "plain" else HEADS[manifest.head]) + agreed
        if manifest.draft_head is not None:
            facts["draft head"] += f"; {_file(manifest.draft_head, report.draft_head_found)}"
    facts["architecture"] = f"{report.architecture or 'unknown'}, {_or_unknown(report.num_blocks)} blocks in the file"
    facts["precision"] = (
        f"{manifest.precision if manifest else report.file_type or 'unknown'} ({types or 'no tensors'})"
    )
    facts["context"] = f"{_or_unknown(report.context_length)} tokens"
    if manifest is not None:
        facts["skipped"] = _skipped(manifest.plan)
        facts["compensation"] = manifest.plan.compensation if manifest.plan.skip else "none"
    facts["tokenizer"] = f"{report.tokenizer_model or 'none'}, pre-tokenizer {report.tokenizer_pre or 'unnamed'}, "
    facts["tokenizer"] += f"{report.num_tokens} tokens, chat template {'yes' if report.chat_template else 'no'}"
    facts["license"] = report.license or "not stated"
    facts["size"] = _size(report.size_bytes)
    if manifest is not None:
        facts |= _cost(manifest.cost, bool(manifest.plan.skip))
        pair = "both halves together: " if manifest.partner and manifest.verification else ""
        facts["verified"] = pair + _verified(manifest.verification)
        if manifest.draft_verification is not None:
            facts["draft verified"] = _verified(manifest.draft_verification)
        facts["made from"] = ", ".join(f"{name} {digest[:16]}" for name, digest in manifest.inputs.items()) or "-"
        facts["created"] = _created(manifest.created, manifest.versions)
    show(fact_grid(facts))


def _file(name: str | None, found: bool | None) -> str:
    return f"{name} ({'beside it' if found else 'MISSING beside it'})"


def _source(model: ModelRecord) -> str:
    return f"{model.source}{' with a LoRA' if model.adapter else ''} (fingerprint {model.fingerprint[:16]})"


def _skipped(plan: PlanSummary) -> str:
    if not plan.skip:
        return "none"
    return f"{len(plan.skip)} of {2 * plan.num_blocks} sublayers ({plan.method}): {', '.join(plan.skip)}"


def _online(record: OnlineRecord | None) -> dict[str, str]:
    if record is None:
        return {}
    over = f"similarity ≥ {record.threshold:.4f} over the first {record.window} tokens"
    return {"online": f"{len(record.ffns)} FFNs can be skipped while it runs: those of {over}"}


def _cost(cost: PlanCost | None, lossy: bool, *, drafts: bool = False) -> dict[str, str]:
    """Return what the artifact loses against the dense model and gains, or that it was not measured."""
    facts = cost_facts(cost)
    if lossy and "against dense" not in facts:
        facts = {"against dense": "not measured: exported with --no-check, or by an older EdgeSkip", **facts}
    elif drafts and not facts:
        facts = {"against dense": "verified text is the dense model's own; draft-only text was not measured"}
    return facts


def _verified(check: VerificationRecord | None) -> str:
    if check is None:
        return "no: exported with --no-check"
    widened = "" if check.widened_kl_divergence is None else f" ({check.widened_kl_divergence:.2e} widened)"
    return (
        f"{'passed' if check.passed else 'FAILED'} ({check.bound}) against {check.reference}, "
        f"{check.tokens} tokens: max |Δlogit| {check.max_abs_logit_difference:.2e}, "
        f"KL {check.kl_divergence:.2e} nats{widened}, top-1 agreement {check.top1_agreement:.1%}"
    )


def _created(created: str, versions: Mapping[str, str]) -> str:
    return ", ".join([created, *(f"{name} {version}" for name, version in versions.items())])


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:,.1f} kB"
