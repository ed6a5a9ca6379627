"""The same text, drafted and verified: the model's first blocks draft, the rest verifies.

    python examples/speculative.py [MODEL] [--exit-layer E] [--output FOLDER]

Speculative decoding changes the speed, never the text: this script compares both. How much faster it is depends on
the draft; `edgeskip train --method exit-adapter` makes a better one (see train_exit.sh).
"""

import argparse
from pathlib import Path

import edgeskip

PROMPTS = ("Write one sentence about rain.", "Count from one to ten.", "What is a noun?")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--exit-layer", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("speculative"))
    parser.add_argument("--tokens", type=int, default=4096, help="tokens to calibrate with")
    options = parser.parse_args()

    with edgeskip.progress_bar() as bar:
        profile = edgeskip.calibrate(
            options.model, tokens=options.tokens, decode_tokens=0, exits=[options.exit_layer], progress=bar
        )
        artifact = edgeskip.export(
            profile, options.output, draft="early-exit", exit_layer=options.exit_layer, overwrite=True, progress=bar
        )

    with edgeskip.load(artifact) as session:
        session.generate(PROMPTS[0], max_tokens=4, strategy="speculative")  # measures what drafting costs, once
        for prompt in PROMPTS:
            plain = session.generate(prompt, max_tokens=48, strategy="plain")
            drafted = session.generate(prompt, max_tokens=48, strategy="speculative")
            assert drafted.tokens == plain.tokens, "speculative decoding changed the text"
            ratio = drafted.stats.decode_tokens_per_s / max(plain.stats.decode_tokens_per_s, 1e-9)
            accepted = ""
            if (found := drafted.stats.speculation) is not None and found.drafted:
                accepted = f", {found.accepted} of {found.drafted} drafted tokens accepted"
            print(f"{prompt!r}: the same {len(plain.tokens)} tokens, {ratio:.2f} times as fast{accepted}")


if __name__ == "__main__":
    main()
