"""Benchmark worker: onnxruntime-genai's Generator on a folder that it can load, on the CPU or another provider."""

from __future__ import annotations

import json
from pathlib import Path

from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int, provider: str = "") -> Start:
    """`capacity`: most tokens of a sequence, prompt and new ones; the shared KV buffers are made for it."""
    import numpy as np
    import onnxruntime_genai as og

    # There is no switch to ignore EOS and its id must lie in the vocabulary: the last one is as good as never chosen.
    configured = json.loads((Path(folder) / "genai_config.json").read_text())["model"]
    options = {"session_options": {"intra_op_num_threads": threads, "inter_op_num_threads": 1}}
    parts = {part: options for part in ("decoder", "draft") if part in configured}
    overlay = {"model": {"eos_token_id": configured["vocab_size"] - 1, **parts}}
    search = {"max_length": capacity, "do_sample": False, "past_present_share_buffer": True}
    config = og.Config(folder)
    if provider:
        config.clear_providers()
        config.append_provider(provider)
    config.overlay(json.dumps(overlay))
    model = og.Model(config)
    record.settings.update(overlay=overlay, search=search)

    def start(prompt: list[int]) -> Step:
        params = og.GeneratorParams(model)
        params.set_search_options(**search)
        generator = og.Generator(model, params)
        pending = [np.array([prompt], dtype=np.int32)]

        def step() -> int:
            if pending:
                generator.append_tokens(pending.pop())
            elif generator.is_done():
                raise RuntimeError("generation ended before the tokens asked for")
            generator.generate_next_token()
            return int(generator.get_next_tokens()[0])

        return step

    return start


if __name__ == "__main__":
    serve(load, ("onnxruntime-genai", "onnxruntime", "numpy"))
