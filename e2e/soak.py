"""The same version changes over and over on one cluster, with the figures that docs/rollouts.md publishes.

`make soak-rollouts N=20` runs it; it is no part of `make e2e`. Each round: a model changed in place, and back by
applying the version before; and a pipeline changed in place. In every fourth round each is also changed by a surge,
which takes five to ten times as long. In the first, a plain Deployment of a server that does not drain is updated on
the same cluster under the same load. Nothing but that may fail a request. No round begins after 22 minutes. The result
file and the table are written before that is judged, also where a round broke off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

import pytest
from benchmarks.result import Bar, Result
from e2e.clusters.paths import REPOSITORY
from e2e.probers.ledger import Entry, Ledger
from e2e.probers.probe import Probe
from e2e.support import oip, undrained
from e2e.support.models import Chain, Scaler, shape
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.swaps import INSTANCES, LONG_S, STEADY, Swap, swap
from e2e.support.waiting import eventually

ROUNDS = int(os.environ.get("PODIUM_SOAK_ROUNDS", "20"))
RATE_PER_S = float(os.environ.get("PODIUM_SOAK_RATE", "100"))
SURGES_EVERY = 4
LAST_BEGIN_S = 22 * 60.0
"""After so long no round begins, so that the whole takes 25 minutes at most where a round takes three."""
PLAIN = "plain Deployment, rollout restart"
BACK = "model in place, back to the version before"
_DOCS = REPOSITORY / "docs" / "rollouts.md"
_BEGIN, _END = "<!-- soak: begin -->\n", "<!-- soak: end -->\n"


@dataclass(slots=True)
class Tally:
    """One case over all rounds."""

    steady: list[Entry] = field(default_factory=list)
    during: list[Entry] = field(default_factory=list)
    requests: int = 0
    streams: int = 0
    failed: int = 0
    mixed: int = 0
    """Answers that are not those of the revision that they name."""
    seconds: list[float] = field(default_factory=list)
    """How long each swap took, until the pods of before were gone."""
    first_answers: list[float] = field(default_factory=list)
    """From the apply to the end of the first answer by the new version."""

    def add(self, ledger: Ledger, started: float, finished: float) -> None:
        """A swap's books."""
        assert ledger.lost is not None
        self.steady += ledger.between(0, started).of("request").entries
        self.during += ledger.between(started, finished).of("request").entries
        self.requests += len(ledger.entries)
        self.streams += sum("event: end" in entry.body for entry in ledger.entries)
        self.failed += len(ledger.failed) + ledger.lost
        self.seconds.append(finished - started)

    def row(self, case: str) -> dict[str, object]:
        """The figures, in milliseconds where not said otherwise."""
        steady, during = Ledger(self.steady), Ledger(self.during)
        return {
            "case": case,
            "swaps": len(self.seconds),
            "requests": self.requests,
            "streams": self.streams,
            "failed": self.failed,
            "mixed": self.mixed,
            "steady_p50_ms": _ms(steady.quantile_s(0.5)),
            "steady_p99_ms": _ms(steady.quantile_s(0.99)),
            "swap_p50_ms": _ms(during.quantile_s(0.5)),
            "swap_p99_ms": _ms(during.quantile_s(0.99)),
            "swap_p999_ms": _ms(during.quantile_s(0.999)),
            "swap_median_s": round(median(self.seconds), 1),
            "first_answer_median_s": round(median(self.first_answers), 2) if self.first_answers else None,
        }


@pytest.fixture(scope="module")
def tallies() -> Iterator[dict[str, Tally]]:
    """What was measured so far; written down also where a round broke off."""
    found: dict[str, Tally] = {}
    yield found
    if found:
        publish(found)


@pytest.mark.timeout(1800 + LAST_BEGIN_S)  # bringing the cluster up is in it
def test_no_planned_change_fails_a_request_however_often_it_is_made(space: Space, tallies: dict[str, Tally]) -> None:
    model = Scaler(name="model", scale=2, replicas=2, instances=INSTANCES)
    chain = Chain(name="chain", second=2, instances=INSTANCES)
    surged = replace(model, name="surged").with_spec(**shape("0"))
    surged_chain = replace(chain, name="surged-chain").with_spec(**shape("0"))
    handles = {each.name: space.served(each) for each in (model, chain, surged, surged_chain)}
    space.kubectl.apply(*undrained.objects(space.installation.images.runtime))
    space.kubectl.rolled_out(f"deployment/{undrained.NAME}")
    begun = time.monotonic()
    for number in range(1, ROUNDS + 1):
        passed = time.monotonic() - begun
        if passed > LAST_BEGIN_S:
            print(f"--- {passed / 60:.0f} minutes have passed: no round after the {number - 1}th", flush=True)
            break
        print(f"--- round {number} of {ROUNDS}, after {passed:.0f} s", flush=True)
        scale = 2 + number
        changed(tallies, "model in place", handles["model"], model.at(scale))
        changed(tallies, BACK, handles["model"], model)
        changed(tallies, "pipeline in place", handles["chain"], replace(chain, second=scale))
        if number % SURGES_EVERY == 1:
            new = replace(surged, scale=scale).with_spec(**shape(str(number)))
            changed(tallies, "model, surge", handles["surged"], new)
            new_chain = replace(surged_chain, second=scale).with_spec(**shape(str(number)))
            changed(tallies, "pipeline, surge", handles["surged-chain"], new_chain)
        if number == 1:
            plain(tallies, space)
    wrong = {case: (each.failed, each.mixed) for case, each in tallies.items() if case != PLAIN}
    assert all(bad == (0, 0) for bad in wrong.values()), f"failed and mixed: {wrong}"
    assert tallies[PLAIN].failed > 0, "the plain Deployment lost nothing: the zeros above prove nothing"


def changed(tallies: dict[str, Tally], case: str, served: Served, wanted: Scaler | Chain) -> None:
    """One change of a resource under load, booked."""
    # A pipeline is asked for no long answers: short requests would wait for them in the same batches.
    result = swap(served, wanted, long_s=LONG_S if isinstance(wanted, Scaler) else 0.0, rate_per_s=RATE_PER_S)
    tally = tallies.setdefault(case, Tally())
    tally.add(result.ledger, result.started, result.finished)
    tally.mixed += len(result.ledger.mismatched(oip.number, result.scales))
    tally.first_answers.append(first_answer(result))


def first_answer(result: Swap) -> float:
    """Seconds from the apply to the end of the first answer by the new revision."""
    done = (entry.done_at for entry in result.ledger.succeeded if entry.revision == result.new)
    return min(moment for moment in done if moment > result.started) - result.started


def plain(tallies: dict[str, Tally], space: Space) -> None:
    """The same load against the plain Deployment while its pods are replaced."""
    address = space.kubectl.get("service", undrained.NAME)["spec"]["clusterIP"]
    eventually("the Service answers", lambda: undrained.answers(address), bool, timeout=30)
    with Probe(oip.load(address, undrained.PORT, undrained.NAME, long_s=LONG_S, rate_per_s=RATE_PER_S)) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        started = time.time()
        space.kubectl("rollout", "restart", f"deployment/{undrained.NAME}")
        space.kubectl.rolled_out(f"deployment/{undrained.NAME}")
        finished = time.time()
        probe.wait_for_successes(STEADY, timeout=60, after=finished)
        ledger = probe.stop()
    tallies.setdefault(PLAIN, Tally()).add(ledger, started, finished)


def publish(tallies: dict[str, Tally]) -> None:
    """Write the result file and the table in the documentation."""
    rows = [tally.row(case) for case, tally in tallies.items()]
    ours = [tally for case, tally in tallies.items() if case != PLAIN]
    steady = Ledger([entry for tally in ours for entry in tally.steady]).quantile_s(0.99)
    during = Ledger([entry for tally in ours for entry in tally.during]).quantile_s(0.99)
    back = tallies.get(BACK)
    bars = (
        Bar("P6", "requests failed in planned changes", float(sum(each.failed for each in ours)), 0),
        Bar("P6", "answers that were not their revision's", float(sum(each.mixed for each in ours)), 0),
        Bar("P6", "p99 in a swap over p99 before", round(during / steady, 2), 2),
        Bar(
            "P6",
            "seconds from kubectl apply to the first answer by the version before, median",
            round(median(back.first_answers), 2) if back else None,
            2,
        ),
        Bar("P6", "swaps", float(sum(len(each.seconds) for each in ours)), 20, "at least"),
        Bar("P6", "requests", float(sum(each.requests for each in ours)), 50_000, "at least"),
    )
    notes = (
        f"{RATE_PER_S:g} requests/s from 10 keep-alive connections;",
        "for models beside 4 clients of streams of 0.7 s without pause.",
        "What 70 % of the pods' capacity would be, as the bar asks for, two shared processors cannot say.",
        "The prober, the cluster of two nodes and all pods share this machine's processors.",
        f"Load average over the last 15 minutes at the end: {os.getloadavg()[2]:.1f} on {os.cpu_count()} processors.",
    )
    result = Result("rollouts", tuple(rows), bars, notes, command=f"make soak-rollouts N={ROUNDS}")
    result.show()
    print(f"written to {result.write()}")
    text = _DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    assert found, f"{_DOCS} has no {_BEGIN.strip()} … {_END.strip()}"
    _DOCS.write_text(before + _BEGIN + table(rows) + told(rows, bars, notes) + _END + after, encoding="utf-8")


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| case | swaps | requests | of them streams | failed | p50 / p99 before, ms | p50 / p99 in the swap, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        steady = f"{row['steady_p50_ms']} / {row['steady_p99_ms']}"
        during = f"{row['swap_p50_ms']} / {row['swap_p99_ms']}"
        counts = f"{row['swaps']} | {row['requests']} | {row['streams']} | {row['failed']}"
        lines.append(f"| {row['case']} | {counts} | {steady} | {during} |")
    return "\n".join(lines) + "\n"


def told(rows: list[dict[str, object]], bars: tuple[Bar, ...], notes: tuple[str, ...]) -> str:
    """What the table is of, and how it stands against the bars."""
    took = ", ".join(f"{row['case']} {row['swap_median_s']} s" for row in rows)
    met = "; ".join(f"{bar.text} {bar.value:g} ({bar.sense} {bar.limit:g})" for bar in bars if bar.value is not None)
    return "\n".join(("", f"A change took, median: {took}. {met}. {notes[-1]}", ""))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
