"""A real kube-apiserver and etcd for the whole test run, with Podium's CRDs installed, and a namespace per test."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.controlplane import ControlPlane

from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics

CRDS = Path(__file__).parents[2] / "crds"


def install_crds(plane: ControlPlane) -> None:
    """Apply Podium's CRDs, and wait until they are served."""
    for manifest in sorted(CRDS.glob("*.yaml")):
        plane.kubectl("apply", "--server-side", "-f", str(manifest))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


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
