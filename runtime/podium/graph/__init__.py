"""Executes the checked graph of a pipeline: which step runs when, and whose values it gets."""

from podium.graph.errors import BranchConditionError, GraphError, MissingOutputError, StepError
from podium.graph.executor import GraphRun, Invoke, execute
from podium.graph.paces import Paces
from podium.graph.plan import GraphPlan

__all__ = [
    "BranchConditionError",
    "GraphError",
    "GraphPlan",
    "GraphRun",
    "Invoke",
    "MissingOutputError",
    "Paces",
    "StepError",
    "execute",
]
