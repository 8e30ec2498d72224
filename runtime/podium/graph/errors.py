"""What goes wrong in a graph. Each error names the step."""

from podium.errors import PodiumError


class GraphError(PodiumError):
    """A request failed at `step`."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"step {step}: {message}")
        self.step = step


class StepError(GraphError):
    """The step's model call failed; `cause` is its error and decides the status of the answer."""

    def __init__(self, step: str, cause: Exception) -> None:
        super().__init__(step, str(cause) or type(cause).__name__)
        self.cause = cause


class MissingOutputError(GraphError):
    """A step ran but did not return an output that the graph hands on. A fault of the model."""

    def __init__(self, step: str, output: str, returned: list[str]) -> None:
        super().__init__(step, f"returned {', '.join(sorted(returned)) or 'nothing'}, expected also {output}")


class BranchConditionError(GraphError):
    """The value that `when` compares is not one value for the request. A fault of the request."""
