"""Paths of inference → who is asked, and in which form. Pure."""

import re
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from podium_crds.assignment import ResourceKind

HOT_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<model_version>[^/:]+))?:(?P<verb>predict|batch|stream)\Z"
    r"|/v1/pipelines/(?P<pipeline>[^/:]+)(/versions/(?P<pipeline_version>[^/:]+))?:(?P<pipeline_verb>run|stream)\Z"
    r"|/v2/models/(?P<oip>[^/]+)(/versions/(?P<oip_version>[^/]+))?/(?P<oip_verb>infer|generate_stream)\Z"
    r"|/rpc/(?P<rpc>[^/]+)(?P<cancel>/cancel)?\Z"
    r"|/v1/(?!models/|pipelines/)(?P<alias>[^/:]+)/predict\Z"
)
MODEL = (ResourceKind.MODEL,)
PIPELINE = (ResourceKind.PIPELINE,)
EITHER = (ResourceKind.MODEL, ResourceKind.PIPELINE)
PATHS_KEPT = 1024


class RouteForm(StrEnum):
    """How the body reads; also the label of a route in metrics and in the access log."""

    PREDICT = "predict"
    RUN = "run"
    INFER = "infer"
    BATCH = "batch"
    STREAM = "stream"
    """`:stream`, and `:predict` or `:run` where the client accepts server-sent events."""
    GENERATE_STREAM = "generate_stream"
    """Triton's generate extension."""
    SINGLE = "single"
    """`/v1/{model}/predict`: one item for the one input, as Forge has it."""
    RPC = "rpc"
    """Binary frames."""
    RPC_CANCEL = "rpc_cancel"
    COMPLETIONS = "completions"
    CHAT = "chat_completions"
    """OpenAI's; the body says which model is asked."""


OPENAI_PATHS = {"/v1/completions": RouteForm.COMPLETIONS, "/v1/chat/completions": RouteForm.CHAT}


@dataclass(frozen=True, slots=True)
class HotRoute:
    """What an inference path asks for."""

    form: RouteForm
    name: str
    version: str | None
    kinds: tuple[ResourceKind, ...]

    @staticmethod
    @lru_cache(PATHS_KEPT)
    def of(path: str) -> "HotRoute | None":
        """None for every other path. `path` has been percent-decoded."""
        if form := OPENAI_PATHS.get(path):
            return HotRoute(form, "", None, MODEL)
        match = HOT_PATH.match(path)
        if match is None:
            return None
        if name := match["model"]:
            return HotRoute(RouteForm(match["verb"]), name, match["model_version"], MODEL)
        if name := match["pipeline"]:
            return HotRoute(RouteForm(match["pipeline_verb"]), name, match["pipeline_version"], PIPELINE)
        if name := match["oip"]:
            return HotRoute(RouteForm(match["oip_verb"]), name, match["oip_version"], EITHER)
        if name := match["rpc"]:
            return HotRoute(RouteForm.RPC_CANCEL if match["cancel"] else RouteForm.RPC, name, None, EITHER)
        return HotRoute(RouteForm.SINGLE, match["alias"], None, EITHER)


ASKED = re.compile(
    r"/v1/(?P<plural>models|pipelines)/(?P<name>[^/:]+)(?P<version>/versions/[^/:]+)?:(?P<verb>[A-Za-z_]+)\Z"
)
VERBS = {ResourceKind.MODEL: ("models", "predict"), ResourceKind.PIPELINE: ("pipelines", "run")}


def right_path(path: str, served: Container[tuple[ResourceKind, str]]) -> tuple[ResourceKind, str] | None:
    """For a path that asks something served as if it were of the other kind, or by an unknown verb: what it is, and the
    path that asks it. None where the path is right, or names nothing that is served."""
    asked = ASKED.match(path)
    if asked is None:
        return None
    for kind, (plural, verb) in VERBS.items():
        if (kind, asked["name"]) in served:
            known = (verb, "stream", "batch") if kind is ResourceKind.MODEL else (verb, "stream")
            is_right = asked["plural"] == plural and asked["verb"] in known
            wanted = "stream" if asked["verb"] == "stream" else verb
            right = f"/v1/{plural}/{asked['name']}{asked['version'] or ''}:{wanted}"
            return None if is_right else (kind, right)
    return None
