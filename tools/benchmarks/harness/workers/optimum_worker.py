"""Benchmark worker: optimum-onnx's ORTModelForCausalLM on a folder that `optimum-cli export onnx` wrote."""

from __future__ import annotations

from typing import Any

from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
    """The forward pass is called directly: `generate` does the same and adds its own Python time per token.

    I/O binding is on, as optimum's documentation advises; on a CPU it makes little difference.
    """
    import onnxruntime as ort
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = ORTModelForCausalLM.from_pretrained(
        folder, session_options=options, provider="CPUExecutionProvider", use_io_binding=True
    )
    record.settings.update(
        intra_op_num_threads=threads, use_io_binding=model.use_io_binding, use_cache=model.can_use_cache
    )

    def start(prompt: list[int]) -> Step:
        past: Any = None
        tokens = torch.tensor([prompt])
        mask = torch.ones((1, capacity), dtype=torch.int64)
        length = 0

        def step() -> int:
            nonlocal past, tokens, length
            with torch.inference_mode():
                total = length + tokens.shape[1]
                out = model(
                    input_ids=tokens,
                    attention_mask=mask[:, :total],
                    position_ids=torch.arange(length, total)[None],
                    past_key_values=past,
                    use_cache=True,
                )
                past, length = out.past_key_values, total
                tokens = out.logits[:, -1].argmax(-1, keepdim=True)
            return int(tokens)

        return step

    return start


if __name__ == "__main__":
    serve(load, ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch", "numpy"))
