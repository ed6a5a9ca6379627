"""What the transformers workers on a GPU share: fp16, SDPA attention; eager, or compiled over a static cache.

Without a GPU the same code runs on the CPU in float32, so that it can be tested.
"""

from __future__ import annotations

from protocol import Loader, Record, Start, Step


def loader(*, compiled: bool) -> Loader:
    """`compiled`: decode steps are one CUDA graph (`torch.compile`, reduce-overhead), as transformers' own guide to
    fast generation has it; the prompt runs eagerly, for its length differs from call to call."""

    def load(record: Record, *, folder: str, threads: int, capacity: int) -> Start:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        torch.set_num_threads(threads)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        model = model.eval().to(device)
        cache = StaticCache(config=model.config, max_cache_len=capacity) if compiled else None
        forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if compiled else model.forward
        record.settings.update(
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            dtype=str(dtype),
            attn_implementation="sdpa",
            cache="StaticCache" if compiled else "DynamicCache",
            compiled=compiled,
        )

        def start(prompt: list[int]) -> Step:
            if cache is not None:
                with torch.inference_mode():  # as its tensors were made
                    cache.reset()
            held = cache if cache is not None else DynamicCache(config=model.config)
            tokens = torch.tensor([prompt], device=device)
            seen = 0

            def step() -> int:
                nonlocal tokens, seen
                positions = torch.arange(seen, seen + tokens.shape[1], device=device)
                run = forward if tokens.shape[1] == 1 else model.forward
                with torch.inference_mode():
                    logits = run(
                        input_ids=tokens,
                        past_key_values=held,
                        cache_position=positions,
                        use_cache=True,
                        logits_to_keep=1,
                    ).logits
                    seen += tokens.shape[1]
                    tokens = logits[:, -1].argmax(-1, keepdim=True).clone()  # the graph's next run overwrites it
                return int(tokens)

            return step

        return start

    return load
