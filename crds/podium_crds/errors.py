"""Errors of the contracts. All of them are for the author of a resource to act on."""

from dataclasses import dataclass


class CrdsError(Exception):
    """Base of every error that podium_crds raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a resource."""

    path: str
    """Where, as `spec.torch.entrypoint` or `spec.steps[encode].inputs[text]`."""
    message: str
    """What was wrong, what was expected, what to write instead."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ResourceError(CrdsError):
    """A resource cannot be used as it is written. Maps to reason InvalidSpec and to HTTP 400."""

    def __init__(self, subject: str, problems: tuple[Problem, ...]) -> None:
        self.subject = subject
        """The resource, as `InferenceModel minilm`, or the file or document it is in."""
        self.problems = problems
        super().__init__("; ".join(f"{subject}: {problem}" for problem in problems))


class ReferenceNotFoundError(CrdsError):
    """Something that a resource names is not there. Maps to reason ReferenceNotFound; may heal by itself."""

    def __init__(self, path: str, kind: str, name: str) -> None:
        self.path = path
        self.kind = kind
        self.name = name
        super().__init__(f"{path}: {kind} {name} does not exist in this namespace: create it, or correct the name")


class AssignmentTooLargeError(CrdsError):
    """A compiled revision or assignment is larger than a ConfigMap should carry. Maps to reason InvalidSpec."""

    def __init__(self, subject: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"{subject} compiles to {size} bytes, the limit is {limit} (a swap needs two revisions in one ConfigMap): "
            "shorten warm-up requests, smoke tests and parameters, or move configmap:// files into an artifact store"
        )


class RecordError(CrdsError):
    """A stored revision cannot be read: written by a later release, or edited by hand."""
