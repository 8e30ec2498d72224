"""What `podium serve -f` prints: one line for each step of each revision."""

import typer

from podium.serving.revisions.lifecycle import HostedRevision
from podium.serving.revisions.resident import Resident
from podium.serving.revisions.residents import Residents
from podium_crds.assignment import LOADED_STATES, Failure, RevisionState


class Progress:
    """Compares what is with what was printed last."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._states: dict[HostedRevision, RevisionState] = {}
        self._failures: dict[HostedRevision, Failure] = {}
        self._serving: dict[str, HostedRevision] = {}

    def show(self) -> None:
        """Prints what is new."""
        for resident in self._residents:
            for hosted in resident.hosted:
                self._show_state(resident, hosted)
                self._show_failure(resident, hosted)
            self._show_serving(resident)

    def _show_state(self, resident: Resident, hosted: HostedRevision) -> None:
        before = self._states.get(hosted)
        self._states[hosted] = hosted.state
        if hosted.state is RevisionState.FETCHING and before is not hosted.state:
            self._say(resident, f"loading revision {_named(hosted)}")
        elif hosted.state in LOADED_STATES and before not in LOADED_STATES:
            self._say(resident, f"revision {_named(hosted)} is ready")
        elif hosted.state is RevisionState.DRAINING and before is not hosted.state:
            self._say(resident, f"unloading revision {_named(hosted)}")

    def _show_failure(self, resident: Resident, hosted: HostedRevision) -> None:
        if hosted.failure is None or hosted.failure == self._failures.get(hosted):
            return
        self._failures[hosted] = hosted.failure
        self._say(resident, f"revision {_named(hosted)} failed: {hosted.failure.reason}: {hosted.failure.message}")
        if (active := resident.active) is not None and active is not hosted:
            self._say(resident, f"still serving revision {_named(active)}")

    def _show_serving(self, resident: Resident) -> None:
        active = resident.active
        if active is not None and self._serving.get(resident.resource.name) is not active:
            self._serving[resident.resource.name] = active
            self._say(resident, f"now serving revision {_named(active)}")

    def _say(self, resident: Resident, what: str) -> None:
        typer.echo(f"{resident.resource.name}: {what}")


def _named(hosted: HostedRevision) -> str:
    return f"{hosted.name} (version {hosted.spec.version})"
