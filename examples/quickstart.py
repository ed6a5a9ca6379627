"""From a model to an answer: calibrate, plan, export, load, generate.

    python examples/quickstart.py [MODEL] [--output FOLDER]

The small default model is fetched the first time (98 MB). Needs the extra `export`.
"""

import argparse
from pathlib import Path

import edgeskip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--output", type=Path, default=Path("quickstart"))
    parser.add_argument("--skip-sublayers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens to calibrate with")
    parser.add_argument("--prompt", default="In one sentence, why is the sky blue?")
    options = parser.parse_args()

    with edgeskip.progress_bar() as bar:
        profile = edgeskip.calibrate(options.model, tokens=options.tokens, decode_tokens=256, progress=bar)
        planned = edgeskip.plan(profile, skip_sublayers=options.skip_sublayers, progress=bar)
        artifact = edgeskip.export(planned, options.output, precision="int4", overwrite=True, progress=bar)

    print(f"{artifact.path}: {artifact.label}, {artifact.size_bytes / 1e6:.0f} MB")
    print("skipped:", ", ".join(artifact.manifest.plan.skip))
    if artifact.cost is not None and artifact.cost.artifact is not None:
        print(f"KL from the dense model: {artifact.cost.artifact.kl_divergence:.3f} nats per token")

    with edgeskip.load(artifact) as session:
        generation = session.generate(options.prompt, max_tokens=64)
    print(generation.text)
    print(f"{generation.stats.decode_tokens_per_s:.0f} tokens/s, {generation.stats.ttft_s * 1000:.0f} ms to the first")


if __name__ == "__main__":
    main()
