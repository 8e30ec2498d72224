import pytest

from podium_operator.settings import Settings, UnknownSettingError, load


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PODIUM_"):
            monkeypatch.delenv(name)


def test_defaults_serve_all_namespaces() -> None:
    found = load()
    assert found.namespaces == ()
    assert found.workers >= 1


@pytest.mark.parametrize(
    ("text", "namespaces"), [("", ()), ("one", ("one",)), ("one,two", ("one", "two")), (" one , two, ", ("one", "two"))]
)
def test_namespaces_are_comma_separated(
    monkeypatch: pytest.MonkeyPatch, text: str, namespaces: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PODIUM_OPERATOR_NAMESPACES", text)
    assert load().namespaces == namespaces


def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_OPERATOR_WORKRS", "3")
    with pytest.raises(UnknownSettingError, match="PODIUM_OPERATOR_WORKRS"):
        load()


@pytest.mark.parametrize(
    "name", ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_9440_TCP_ADDR", "METRICS_SERVICE_HOST"]
)
def test_what_kubernetes_injects_for_a_service_is_not_ours_to_judge(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"PODIUM_OPERATOR_{name}", "10.0.0.1")
    assert load() == Settings()


def test_a_wrong_value_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_OPERATOR_WORKERS", "0")
    with pytest.raises(ValueError, match="PODIUM_OPERATOR_WORKERS: Input should be greater"):
        load()


def test_lease_timings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_OPERATOR_LEASE_RENEW_SECONDS", "20")
    with pytest.raises(ValueError, match="retry < renew < duration"):
        load()


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_lease_lives_in_the_namespace_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_OPERATOR_LEASE_NAMESPACE", "podium-system")
    assert load().lease_in == "podium-system"
