"""Lowers a decoder that drafts for itself: graphs cut at exit layers, or one graph with a plan's skips in gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeskip.artifacts.manifest import DraftRecord, ExitRecord, GraphRecord
from edgeskip.core.plan import Plan
from edgeskip.exporters.draft import ExitDraft
from edgeskip.exporters.job import StepCallback, no_step
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import DATA_FILE, MODEL_FILE, graph_record, write_graph
from edgeskip.exporters.onnx.segment import Segment
from edgeskip.exporters.onnx.weights import WeightFile
from edgeskip.exporters.split import parts_of
from edgeskip.models.decoder import Decoder

DRAFT_FILE = "draft.onnx"
VERIFY_FILE = "verify.onnx"
GENAI_FILE = "model-genai.onnx"
GENAI_DRAFT_FILE = "draft-genai.onnx"
TOKENS_FILE = "draft_tokens.npy"


def lower_early_exit(
    decoder: Decoder,
    form: WeightFormat,
    folder: Path,
    exits: Sequence[ExitDraft],
    *,
    step: StepCallback = no_step,
) -> tuple[GraphRecord, DraftRecord]:
    """Write the whole model as `lower` does and, over the same weights, the graphs that `exits` (shallow first) cut it
    into: `draft.onnx`, `draft-E.onnx` for each deeper exit and `verify.onnx` for the rest.

    A draft gives `exit_states` [batch, n, hidden_size] of all its tokens as well as the logits of its own head; the
    next graph takes them as `hidden_states` in place of `input_ids`. N of `past_key_values.N` counts from 0 in each. An
    exit's own block is in its graph alone and has the last of that one's caches; `exit_states` are from before it. With
    a trimmed head `draft_tokens.npy` has the ids of its rows, int32 [V'].

    Two more are for onnxruntime-genai: `model-genai.onnx`, the whole model with logits of every position, without which
    it verifies token by token, and beside a trimmed head `draft-genai.onnx`, the first draft with logits of all tokens.

    Raises:
        EdgeSkipError: If a graph would have no sublayers.
    """
    parts = parts_of(decoder, [cut.layer for cut in exits])
    with WeightFile(folder, DATA_FILE) as weights:
        whole = write_graph(weights, decoder, Segment(decoder.sublayers), form, folder / MODEL_FILE, step)
        step("draft")
        write_graph(weights, decoder, Segment(decoder.sublayers, every_position=True), form, folder / GENAI_FILE)
        records = []
        for number, cut in enumerate(exits):
            # The stream at the exit is scaled as the next sublayer reads it (bake).
            norm = replace(cut.head.norm, eps=parts[number + 1][0].norm.eps)
            segment = Segment(
                parts[number],
                from_ids=number == 0,
                exit_states=True,
                head=replace(cut.head, norm=norm),
                head_name="draft_head" if cut.chosen.kind == "plain" else f"exit.{cut.layer}",
            )
            file = DRAFT_FILE if number == 0 else f"draft-{cut.layer}.onnx"
            caches = write_graph(weights, decoder, segment, form, folder / file)
            kind, agreement = cut.chosen.kind, cut.chosen.agreement
            records.append(ExitRecord(layer=cut.layer, file=file, num_kv_layers=caches, head=kind, agreement=agreement))
            if number == 0 and cut.head.tokens is not None:
                segment = replace(segment, exit_states=False, widened=True)
                write_graph(weights, decoder, segment, form, folder / GENAI_DRAFT_FILE)
        rest = write_graph(weights, decoder, Segment(parts[-1], from_ids=False), form, folder / VERIFY_FILE)
    tokens = exits[0].head.tokens
    if tokens is not None:
        np.save(folder / TOKENS_FILE, tokens.astype(np.int32))
    draft = DraftRecord(
        kind="early-exit",
        exits=records,
        verify=VERIFY_FILE,
        verify_kv_layers=rest,
        vocabulary=None if tokens is None else TOKENS_FILE,
    )
    return graph_record(decoder, form, whole), draft


def genai_graphs(graph: GraphRecord, draft: DraftRecord) -> tuple[GraphRecord, GraphRecord]:
    """Return which graphs onnxruntime-genai is to verify and to draft with; the draft has logits of all tokens."""
    if draft.exits:
        caches = draft.exits[0].num_kv_layers
        file = draft.exits[0].file if draft.vocabulary is None else GENAI_DRAFT_FILE
    else:
        skipped = draft.plan.skip if draft.plan else []
        caches = graph.num_kv_layers - sum(name.startswith("attn.") for name in skipped)
        file = DRAFT_FILE
    return (
        graph.model_copy(update={"file": GENAI_FILE}),
        graph.model_copy(update={"file": file, "num_kv_layers": caches}),
    )


def lower_skip_plan(
    decoder: Decoder, plan: Plan, form: WeightFormat, folder: Path, *, step: StepCallback = no_step
) -> GraphRecord:
    """Write the dense `decoder` with what `plan` skips in gates, and the skipped model alone over the same weights.

    `model.onnx` is the dense graph for everybody who leaves its optional input `skip` (bool [1]) alone; if it is true,
    the skipped sublayers give way to their compensation and their caches stay as they are. For onnxruntime-genai
    `draft.onnx` has neither gates nor skipped sublayers and `model-genai.onnx`, as in `lower_early_exit`, no gates.
    """
    skips = {skip.sublayer: skip for skip in plan.skips}
    gated = Segment(decoder.sublayers, skips=skips, gated=True)
    with WeightFile(folder, DATA_FILE) as weights:
        caches = write_graph(weights, decoder, gated, form, folder / MODEL_FILE, step)
        step("draft")
        write_graph(weights, decoder, Segment(decoder.sublayers, every_position=True), form, folder / GENAI_FILE)
        write_graph(weights, decoder, replace(gated, gated=False), form, folder / DRAFT_FILE)
    return graph_record(decoder, form, caches)
