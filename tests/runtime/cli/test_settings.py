"""Settings from PODIUM_ variables."""

import pytest
from pydantic import ValidationError

from podium.settings import Settings, UnknownSettingError, read_settings, refuse_unknown


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_misspelt_variable_is_refused_by_name() -> None:
    with pytest.raises(UnknownSettingError, match=r"PODIUM_ARENA_BYTE;.*PODIUM_ARENA_BYTES"):
        refuse_unknown({"PODIUM_ARENA_BYTE": "1"})


@pytest.mark.parametrize(
    "name",
    [
        "PODIUM_SERVICE_HOST",
        "PODIUM_SERVICE_PORT_HTTP",
        "PODIUM_PORT",
        "PODIUM_OPERATOR_PORT_8080_TCP_ADDR",
        "PODIUM_OPERATOR_SERVICE_PORT",
        "OTHER",
    ],
)
def test_what_kubernetes_injects_for_services_is_passed_over(name: str) -> None:
    refuse_unknown({name: "tcp://10.0.0.1:80"})


@pytest.mark.parametrize("name", ["PODIUM_CACHE", "PODIUM_CLUSTER", "PODIUM_KUBECONFIG", "PODIUM_OPERATOR_WORKERS"])
def test_what_a_developer_sets_for_make_does_not_stop_podium_serve(name: str) -> None:
    refuse_unknown({name: "x"})


def test_values_are_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_DATA_PORT", "9000")
    assert read_settings().data_port == 9000
    assert read_settings(data_port=1).data_port == 1
    monkeypatch.setenv("PODIUM_ARENA_BYTES", "1")
    with pytest.raises(ValidationError):
        read_settings()
