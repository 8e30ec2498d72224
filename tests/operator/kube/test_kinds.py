import pytest

from podium_operator.kube.kinds import KINDS, Ref, kind, ref


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Pod", "/api/v1/namespaces/ns/pods/one"),
        ("Deployment", "/apis/apps/v1/namespaces/ns/deployments/one"),
        ("InferenceModel", "/apis/podium.dev/v1alpha1/namespaces/ns/inferencemodels/one"),
        ("Node", "/api/v1/nodes/one"),
    ],
)
def test_an_object_lives_at_its_path(name: str, path: str) -> None:
    assert kind(name).path("ns", "one") == path


def test_a_collection_spans_all_namespaces_without_one() -> None:
    assert kind("Pod").path() == "/api/v1/pods"
    assert kind("Pod").path("ns") == "/api/v1/namespaces/ns/pods"


def test_a_subresource_comes_last() -> None:
    assert kind("Deployment").path("ns", "one", "scale").endswith("/deployments/one/scale")


def test_a_name_cannot_leave_its_path() -> None:
    assert kind("Pod").path("ns", "../../nodes/one") == "/api/v1/namespaces/ns/pods/..%2F..%2Fnodes%2Fone"


def test_an_object_of_a_namespaced_kind_needs_its_namespace() -> None:
    with pytest.raises(ValueError, match="needs a namespace"):
        kind("Pod").path(None, "one")


def test_a_kind_that_is_none_of_the_operators_business_is_refused() -> None:
    with pytest.raises(KeyError):
        kind("StatefulSet")


def test_a_manifest_is_referred_to_by_kind_namespace_and_name() -> None:
    pod = {"kind": "Pod", "metadata": {"name": "one", "namespace": "ns"}}
    assert ref(pod) == Ref("Pod", "ns", "one")
    assert ref({"kind": "Node", "metadata": {"name": "one", "namespace": "ns"}}) == Ref("Node", None, "one")
    assert str(ref(pod)) == "Pod ns/one"


def test_kinds_are_listed_by_their_name() -> None:
    assert all(name == each.name for name, each in KINDS.items())
