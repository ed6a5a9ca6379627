"""Benchmark worker: transformers with SDPA attention. On the CPU in fp32, eager, with its own KV cache; `gpu`: in fp16
on a GPU, eager or `compiled` over a static cache. Without a GPU that code runs on the CPU in fp32, so that it can be
tested."""

from __future__ import annotations

from typing import Any

from protocol import Record, Start, Step, serve


def load(
    record: Record, *, folder: str, threads: int, capacity: int, gpu: bool = False, compiled: bool = False
) -> Start:
    """The forward pass is called directly: `generate` does the same and adds its own Python time per token.

    `compiled`: decode steps are one CUDA graph (`torch.compile`, reduce-overhead), as transformers' own guide to fast
    generation has it; the prompt runs eagerly, for its length differs from call to call.
    """
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval().to(device)
    static = StaticCache(config=model.config, max_cache_len=capacity) if compiled else None
    forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if compiled else model
    record.settings.update(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        torch_num_threads=torch.get_num_threads(),
        dtype=str(dtype),
        attn_implementation="sdpa",
        cache="StaticCache" if compiled else "DynamicCache",
        compiled=compiled,
        logits_to_keep=1,
        inference_mode=True,
    )

    def start(prompt: list[int]) -> Step:
        if static is not None:
            with torch.inference_mode():  # as its tensors were made
                static.reset()
        cache = static if static is not None else DynamicCache(config=model.config)
        tokens = torch.tensor([prompt], device=device)
        seen = 0

        def step() -> int:
            nonlocal tokens, seen
            count = tokens.shape[1]
            where: dict[str, Any] = {"cache_position": torch.arange(seen, seen + count, device=device)} if gpu else {}
            run = forward if count == 1 else model
            with torch.inference_mode():
                logits = run(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **where).logits
                tokens = logits[:, -1].argmax(-1, keepdim=True)
                if compiled:
                    tokens = tokens.clone()  # the graph's next run overwrites it
            seen += count
            return int(tokens)

        return step

    return start


if __name__ == "__main__":
    serve(load, ("transformers", "torch", "numpy"))
