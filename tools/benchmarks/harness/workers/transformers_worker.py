"""Benchmark worker: transformers' eager PyTorch model, fp32, SDPA attention, its own KV cache."""

from __future__ import annotations

from protocol import Record, Start, Step, serve


def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
    """The forward pass is called directly: `generate` does the same and adds its own Python time per token."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    record.settings.update(
        torch_num_threads=torch.get_num_threads(),
        attn_implementation="sdpa",
        cache="DynamicCache",
        logits_to_keep=1,
        inference_mode=True,
    )

    def start(prompt: list[int]) -> Step:
        cache = DynamicCache(config=model.config)
        tokens = torch.tensor([prompt])

        def step() -> int:
            nonlocal tokens
            with torch.inference_mode():
                logits = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                tokens = logits[:, -1].argmax(-1, keepdim=True)
            return int(tokens)

        return step

    return start


if __name__ == "__main__":
    serve(load, ("transformers", "torch", "numpy"))
