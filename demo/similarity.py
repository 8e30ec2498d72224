"""Similarities of sentences, and whether they are what anyone would expect. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

SENTENCES = (
    "A man plays the guitar on a stage.",
    "Someone performs a song with an instrument.",
    "The stock market fell sharply today.",
    "Shares lost value after the announcement.",
    "How do I bake bread with a natural starter?",
    "What is a good recipe for a sourdough loaf?",
)
"""Each pair of neighbours, the first of which is even, says nearly the same."""

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Mean cosine of the pairs that mean the same, and of all others."""

    related: float
    unrelated: float
    separated: bool
    """Whether every related pair is closer than every unrelated one."""


def matrix(rows: Rows) -> list[list[float]]:
    """Cosines of rows of length 1."""
    return [[sum(a * b for a, b in zip(left, right, strict=True)) for right in rows] for left in rows]


def verdict(cosines: Rows) -> Verdict:
    """Judges the matrix of SENTENCES."""
    size = len(cosines)
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    related = [cosines[i][j] for i, j in pairs if i // 2 == j // 2]
    unrelated = [cosines[i][j] for i, j in pairs if i // 2 != j // 2]
    return Verdict(sum(related) / len(related), sum(unrelated) / len(unrelated), min(related) > max(unrelated))


def table(sentences: Sequence[str], cosines: Rows) -> str:
    """The matrix for a person."""
    width = max(map(len, sentences))
    lines = [f"{'':{width + 4}}" + "".join(f"{f'({i + 1})':>7}" for i in range(len(sentences)))]
    for index, (sentence, row) in enumerate(zip(sentences, cosines, strict=True)):
        lines.append(f"({index + 1}) {sentence:{width}}" + "".join(f"{cosine:7.2f}" for cosine in row))
    return "\n".join(lines)
