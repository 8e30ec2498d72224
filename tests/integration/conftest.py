"""A real kube-apiserver and etcd for the whole test run, with Podium's CRDs installed, and a namespace per test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from e2e.clusters.toolchain import binary
from tests.support.controlplane import ControlPlane
from tests.support.local_node import LocalNode
from tests.support.operator_process import OperatorProcess
from tests.support.world import CODE, World

from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics

PROGRAMS = ("etcd", "kube-apiserver", "kubectl", "helm")
CRDS = Path(__file__).parents[2] / "crds"


def install_crds(plane: ControlPlane) -> None:
    """Apply Podium's CRDs, and wait until they are served."""
    for manifest in sorted(CRDS.glob("*.yaml")):
        plane.kubectl("apply", "--server-side", "-f", str(manifest))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def pytest_runtestloop(session: pytest.Session) -> None:
    """Builds what a control plane runs, where the cache lacks it: minutes, for which no test's time limit is meant."""
    if not session.config.option.collectonly:
        for name in PROGRAMS:
            binary(name)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        install_crds(plane)
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def credentials(control_plane: ControlPlane) -> Credentials:
    return await Credentials.load(control_plane.kubeconfig)


@pytest.fixture
async def client(credentials: Credentials, metrics: Metrics) -> AsyncIterator[KubeClient]:
    found = KubeClient(Transport(credentials, metrics))
    yield found
    await found.close()


@pytest.fixture
async def world(
    control_plane: ControlPlane, client: KubeClient, namespace: str, tmp_path: Path
) -> AsyncIterator[World]:
    await client.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "code", "namespace": namespace},
            "data": {"scale.py": CODE},
        }
    )
    async with LocalNode(control_plane, client, namespace, tmp_path) as node:
        yield World(control_plane, client, namespace, node)


@pytest.fixture
async def operator(control_plane: ControlPlane, namespace: str) -> AsyncIterator[OperatorProcess]:
    async with OperatorProcess(control_plane.kubeconfig, namespace) as process:
        yield await process.leading()
        for line in process.logs[-60:]:
            print(line)  # pytest shows it where the test failed
