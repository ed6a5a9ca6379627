"""A chat in the terminal: answers stream, and the conversation is the next prompt.

    python examples/chat.py ARTIFACT

ARTIFACT is what `edgeskip export` wrote, or any .gguf file with a chat template. An empty line ends the chat.
"""

import argparse

import edgeskip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=256)
    options = parser.parse_args()

    sampling = edgeskip.Sampling(temperature=options.temperature, top_p=0.9)
    messages: list[dict[str, str]] = []
    with edgeskip.load(options.artifact) as session:
        while question := ask():
            messages.append({"role": "user", "content": question})
            stream = session.stream(messages, system=options.system, sampling=sampling, max_tokens=options.max_tokens)
            for piece in stream:
                print(piece, end="", flush=True)
            print()
            messages.append({"role": "assistant", "content": stream.generation.text})


def ask() -> str:
    """Return the next question; an empty text at the end."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    main()
