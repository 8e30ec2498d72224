"""Asks a served language model, and prints the answer as it comes: ask.py URL MODEL QUESTION."""

import sys

from openai import OpenAI


def main() -> None:
    """One question, streamed."""
    url, model, question = sys.argv[1:4]
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=256,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            sys.stdout.write(choice.delta.content or "")
            sys.stdout.flush()
        if chunk.usage is not None:
            sys.stdout.write(f"\n{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out\n")


if __name__ == "__main__":
    main()
