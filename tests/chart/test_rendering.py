"""What the chart renders: the golden files, and what must hold whatever the values are."""

import pytest
import yaml
from tests.chart.rendering import (
    CASES,
    CHART,
    GOLDEN,
    Manifest,
    RefusedError,
    case,
    container,
    helm,
    manifests,
    of_kind,
    template,
)

from podium_operator.kube.kinds import KINDS
from podium_operator.settings import PREFIX, Settings
from podium_operator.watched import WATCHED

CRDS = ("inferencemodels.podium.dev", "inferencepipelines.podium.dev")


@pytest.mark.parametrize("name", CASES)
def test_the_chart_renders_what_was_reviewed(name: str) -> None:
    assert case(name) == (GOLDEN / f"{name}.yaml").read_text(), "if meant: python -m tests.chart.rendering"


@pytest.mark.parametrize("name", CASES)
def test_every_golden_file_is_yaml_of_objects_with_names_of_their_own(name: str) -> None:
    documents = [each for each in yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()) if each]
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)


def test_helm_lint_finds_nothing() -> None:
    helm("lint", "--strict", str(CHART))


def test_the_operators_pod_meets_the_restricted_pod_security_standard() -> None:
    (deployment,) = of_kind(manifests(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_setting_that_the_chart_passes_exists() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    (deployment,) = of_kind(manifests(), "Deployment")
    passed = {each["name"] for each in container(deployment)["env"]}
    assert passed <= known


def test_probes_go_to_the_port_that_the_operator_listens_on() -> None:
    (deployment,) = of_kind(manifests(), "Deployment")
    ports = {each["name"]: each["containerPort"] for each in container(deployment)["ports"]}
    assert ports == {"http": Settings.model_fields["health_port"].default}


def test_custom_resource_definitions_are_part_of_the_release_and_survive_it() -> None:
    found = of_kind(manifests(), "CustomResourceDefinition")
    assert sorted(each["metadata"]["name"] for each in found) == sorted(CRDS)
    assert all(each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for each in found)


def test_custom_resource_definitions_go_with_the_release_where_that_is_asked_for() -> None:
    found = of_kind(manifests("crds.keep=false"), "CustomResourceDefinition")
    assert len(found) == len(CRDS)
    assert not any("annotations" in each["metadata"] for each in found)


def test_custom_resource_definitions_can_be_left_to_others() -> None:
    assert not of_kind(manifests("crds.enabled=false"), "CustomResourceDefinition")


def test_rendered_custom_resource_definitions_say_what_is_generated() -> None:
    generated = {path.name: yaml.safe_load(path.read_text()) for path in (CHART.parents[1] / "crds").glob("*.yaml")}
    found = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests(), "CustomResourceDefinition")}
    assert found == {each["metadata"]["name"]: each["spec"] for each in generated.values()}


def test_a_namespaced_operator_has_no_cluster_wide_role() -> None:
    found = manifests("watchNamespaces={team-a,team-b}", "rbac.nodes=false")
    assert not of_kind(found, "ClusterRole")
    assert not of_kind(found, "ClusterRoleBinding")
    assert {each["metadata"]["namespace"] for each in of_kind(found, "Role")} == {"team-a", "team-b", "podium-system"}


def test_the_operator_may_watch_what_it_watches() -> None:
    granted = verbs(of_kind(manifests(), "ClusterRole"))
    for watched in WATCHED:
        assert {"list", "watch"} <= granted.get((watched.kind.group, watched.kind.plural), set()), watched.kind.name


def test_the_operator_may_do_nothing_to_kinds_it_has_no_business_with() -> None:
    known = {(kind.group, kind.plural) for kind in KINDS.values()}
    roles = [*of_kind(manifests(), "ClusterRole"), *of_kind(manifests(), "Role")]
    assert {(group, plural.partition("/")[0]) for group, plural in verbs(roles)} <= known


def test_routes_are_written_only_where_the_value_says_so_and_never_listed() -> None:
    routes = ("gateway.networking.k8s.io", "httproutes")
    assert routes not in verbs(of_kind(manifests(), "ClusterRole"))
    asked = "operator.gatewayApi=true"
    assert verbs(of_kind(manifests(asked), "ClusterRole"))[routes] == {"get", "create", "patch", "delete"}
    named = of_kind(manifests(asked, "watchNamespaces={team-a}", "rbac.nodes=false"), "Role")
    assert verbs(named)[routes] == {"get", "create", "patch", "delete"}


def test_no_rule_has_a_wildcard() -> None:
    for role in [*of_kind(manifests(), "ClusterRole"), *of_kind(manifests(), "Role")]:
        for rule in role["rules"]:
            assert not any("*" in rule[part] for part in ("apiGroups", "resources", "verbs"))


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ("operator.replica=2", "replica"),
        ("operator.replicas=-1", "replicas"),
        ("operator.image.pullPolicy=Sometimes", "pullPolicy"),
        ("operator.logLevel=LOUD", "logLevel"),
        ("runtime.image.digest=latest", "digest"),
        ("metrics.podMonitor.interval=often", "interval"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(pair: str, named: str) -> None:
    with pytest.raises(RefusedError, match=named):
        template("--set", pair)


def test_an_older_kubernetes_is_refused() -> None:
    with pytest.raises(RefusedError, match="kubeVersion"):
        template("--kube-version=1.30.0")


def test_every_default_of_the_values_has_a_schema() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert sorted(set(paths(values)) - set(schema_paths(schema))) == []


def verbs(roles: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    """(group, resource) → verbs."""
    granted: dict[tuple[str, str], set[str]] = {}
    for role in roles:
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    granted.setdefault((group, resource), set()).update(rule["verbs"])
    return granted


def paths(values: Manifest, prefix: str = "") -> list[str]:
    """Every key of nested mappings; what is free-form ends the path."""
    found = []
    for key, value in values.items():
        found.append(prefix + key)
        if isinstance(value, dict) and prefix + key != "operator.resources":
            found += paths(value, f"{prefix}{key}.")
    return found


def schema_paths(schema: Manifest, prefix: str = "") -> list[str]:
    """Every property that the schema names."""
    found = []
    for key, value in schema.get("properties", {}).items():
        found.append(prefix + key)
        found += schema_paths(value, f"{prefix}{key}.")
    return found
