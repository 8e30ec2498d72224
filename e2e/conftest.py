"""One cluster, one installation, a namespace for each test; after a failure, everything that explains it.

Environment: PODIUM_CLUSTER chooses the cluster (see e2e/clusters); PODIUM_E2E_KEEP leaves cluster and release in place.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest
from e2e.clusters.base import Cluster, ClusterError
from e2e.clusters.kubectl import kubectl as administer
from e2e.clusters.paths import state_dir
from e2e.clusters.select import select
from e2e.clusters.shell import locked
from e2e.support import agents, dumps, models
from e2e.support.agents import Agent
from e2e.support.installation import NAMESPACE, RELEASE, Images, Installation, build
from e2e.support.kubectl import Kubectl
from e2e.support.namespaces import Space, create, remove
from e2e.support.waiting import NotSeenError, eventually

REACHABLE_S = 30.0
"""A cluster that has just come up routes its Services a moment after its nodes are ready."""
_ORDER = (
    "test_cluster_smoke",
    "test_first_light",
    "test_pipelines",
    "test_version_swap",
    "test_surges",
    "test_steps",
    "test_autoscaling",
    "test_failures",
    "test_restarts",
    "test_node_drain",
    "test_gpu_scheduling",
    "test_control_plane",
    "test_chart",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What everything else builds on comes first; the chart, which replaces the operator, last."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return _ORDER.index(name) if name in _ORDER else len(_ORDER)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the dumps of a failed test to its report, and end the run where the thin path is broken."""
    report = yield
    if report.failed:
        funcargs = getattr(item, "funcargs", {})
        for name in ("space", "shared_space", "installation"):
            owner = funcargs.get(name)
            if owner is not None and report.when in ("setup", "call"):
                report.sections.append((f"cluster: {name}", dumps.namespace(owner.kubectl)))
        if item.get_closest_marker("thin"):
            item.session.shouldfail = "the thin path is broken: nothing that builds on it can tell more"
    return report


@pytest.fixture(scope="session", autouse=True)
def whole_run() -> Iterator[Cluster]:
    """The cluster of the run: taken down at the end if it was brought up here. One run at a time.

    Another run would replace the operator and drain nodes, which this one would take for faults.
    """
    with locked(state_dir().with_name("e2e.lock"), timeout=3600):
        chosen = select()
        ours = not _answers(chosen)
        chosen.up()
        yield chosen
        if ours and not _keep():
            chosen.down()


@pytest.fixture(scope="session")
def cluster(whole_run: Cluster) -> Cluster:
    """A cluster of two nodes, whose Services and pods this machine can reach."""
    _check_reachable(Kubectl(whole_run.kubeconfig))
    return whole_run


@pytest.fixture(scope="session")
def admin(cluster: Cluster) -> Kubectl:
    """kubectl as the cluster's administrator."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    """The images of this checkout, on every node."""
    return build(cluster)


@pytest.fixture(scope="session")
def installation(admin: Kubectl, images: Images) -> Iterator[Installation]:
    """The chart of this checkout, installed as a user installs it."""
    installed = Installation(admin.within(NAMESPACE), images)
    ours = RELEASE not in installed.helm("list", "--short").split()
    installed.upgrade()
    yield installed
    if ours and not _keep():
        installed.uninstall()
        installed.remove_crds()


@pytest.fixture(scope="session")
def agent_space(admin: Kubectl, images: Images) -> Iterator[Kubectl]:
    """The namespace where the agents run."""
    bound = create(admin, f"e2e-agents-{uuid.uuid4().hex[:6]}")
    bound.apply(*agents.objects(images.runtime))
    bound.rolled_out("daemonset/agent")
    yield bound
    remove(bound)
    bound.delete("namespace", bound.namespace)


@pytest.fixture
def agents_by_node(agent_space: Kubectl, cluster: Cluster) -> Iterator[dict[str, Agent]]:
    """An open session with each node's agent."""
    with ExitStack() as stack:
        yield {node: stack.enter_context(Agent(agent_space, node)) for node in cluster.nodes()}


@pytest.fixture(scope="session")
def spaces(admin: Kubectl, installation: Installation) -> Iterator[Callable[[str], Space]]:
    """Makes namespaces with the code of the test models in them; none is left at the end."""
    made: list[Kubectl] = []

    def make(title: str) -> Space:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower().removeprefix("test_"))[:44].strip("-")
        bound = create(admin, f"{name}-{uuid.uuid4().hex[:6]}")
        made.append(bound)
        bound.apply(models.code())
        return Space(bound, installation)

    yield make
    for bound in made:
        bound.delete("namespace", bound.namespace)


@pytest.fixture
def space(request: pytest.FixtureRequest, spaces: Callable[[str], Space]) -> Iterator[Space]:
    """A namespace of the test's own."""
    own = spaces(request.node.name)
    yield own
    remove(own.kubectl)


@pytest.fixture(scope="module")
def shared_space(spaces: Callable[[str], Space]) -> Space:
    """A namespace for tests that leave nothing in it."""
    return spaces("shared")


def _answers(cluster: Cluster) -> bool:
    try:
        administer(cluster.kubeconfig, "get", "--raw=/readyz", timeout=15)
    except (ClusterError, OSError):
        return False
    return True


def _check_reachable(admin: Kubectl) -> None:
    """The tests' clients run on this machine and ask Services and pods at their own addresses."""
    address = admin.get("service", "kubernetes")["spec"]["clusterIP"]

    def problem() -> OSError | None:
        try:
            socket.create_connection((address, 443), timeout=5).close()
        except OSError as exc:
            return exc
        return None

    try:
        eventually("Services are reachable", problem, lambda exc: exc is None, timeout=REACHABLE_S)
    except NotSeenError:
        exc = problem()
        pytest.exit(
            f"Service addresses ({address}) are not reachable from this machine: {exc}. The clients of this suite run "
            "here: add routes for the cluster's Service and pod ranges, on kind by way of its nodes' addresses."
        )


def _keep() -> bool:
    return bool(os.environ.get("PODIUM_E2E_KEEP"))
