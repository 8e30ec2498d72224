"""The steps of `make demo`, in order."""

from e2e.clusters.select import select
from e2e.probers.ledger import Ledger
from e2e.probers.probe import Probe, ProbeError

from demo import client, images, model, release, similarity, store
from demo.errors import DemoError
from demo.progress import Progress, detail, tell
from demo.target import NAMESPACE, Target

STEPS = 8
_BEFORE = 60
"""Answers of the first version before the change, and of the second after it."""
_ANSWERS_TIMEOUT_S = 120.0


def up() -> None:
    """Runs them. Raises DemoError or ClusterError at the first that cannot be done."""
    progress = Progress(STEPS)
    with progress.step("a cluster"):
        target = _cluster()
    with progress.step("the images: operator, runtime, store"):
        wanted = images.images(target)
        images.provide(target, wanted)
    with progress.step("Podium itself, by its Helm chart"):
        release.install(target, wanted)
        detail(f"release {release.RELEASE} in namespace {release.SYSTEM}")
    with progress.step("an artifact store in the cluster, with the weights of all-MiniLM-L6-v2"):
        target.apply_template("namespace.yaml")
        store.start(target, wanted.store.reference)
        store.upload(target, model.make_artifacts())
    with progress.step("an InferenceModel, and an InferencePipeline tokenizer -> encoder -> normalise"):
        model.apply(target, "1")
        model.wait_ready(target)
        model.wait_serving(target, "1")
        detail(target.kubectl("get", "inference").rstrip())
    with progress.step("embeddings of six sentences, through the Service"):
        client.start(target, wanted.operator.reference)
        url = model.url(target)
        first = _similarities(target, url)
    with progress.step(f"a new version, while a client asks {client.RATE_PER_S:.0f} times a second"):
        ledger = _swap(target, url)
    with progress.step("the same sentences, by the new version"):
        second = _similarities(target, url)
        detail(f"related pairs stood out by {_margin(first):.2f} before, by {_margin(second):.2f} now")
    _judge(ledger)
    _what_next(progress)


def _cluster() -> Target:
    cluster = select()
    cluster.up()
    target = Target(cluster)
    detail(f"{cluster.kind}: {len(target.nodes())} nodes, kubeconfig {cluster.kubeconfig}")
    return target


def _similarities(target: Target, url: str) -> similarity.Verdict:
    answer = client.embeddings(target, url, similarity.SENTENCES)
    cosines = similarity.matrix(answer.rows)
    detail(f"POST {url}{client.PATH} was answered by {answer.revision}\n")
    detail(similarity.table(similarity.SENTENCES, cosines))
    verdict = similarity.verdict(cosines)
    detail(f"\nmean cosine of pairs that mean the same {verdict.related:.2f}, of all others {verdict.unrelated:.2f}")
    if not verdict.separated:
        raise DemoError("an unrelated pair is closer than a related one: these are not the weights of the model")
    return verdict


def _margin(verdict: similarity.Verdict) -> float:
    return verdict.related - verdict.unrelated


def _swap(target: Target, url: str) -> Ledger:
    before = model.pods(target)
    try:
        with client.load(target, url) as probe:
            ledger = _under_load(target, probe)
    except (TimeoutError, ProbeError) as error:
        raise DemoError(f"the client in the cluster: {error}") from error
    for revision, count in ledger.by_revision().items():
        version = model.encoder_version(target, revision) or "?"
        detail(f"{count:5} answers of version {version}, revision {revision}")
    detail(
        f"{len(ledger.failed):5} failed, {ledger.lost} lost, of {ledger.summary.sent if ledger.summary else '?'} sent"
    )
    detail(f"      p50 {ledger.quantile_s(0.5) * 1e3:.0f} ms, p99 {ledger.quantile_s(0.99) * 1e3:.0f} ms")
    detail("      " + ("the same pods before and after" if model.pods(target) == before else "other pods than before"))
    return ledger


def _under_load(target: Target, probe: Probe) -> Ledger:
    probe.wait_for_successes(_BEFORE, timeout=_ANSWERS_TIMEOUT_S)
    model.apply(target, "2")
    model.wait_serving(target, "2")
    answered = len(probe.so_far().succeeded)
    probe.wait_for_successes(answered + _BEFORE, timeout=_ANSWERS_TIMEOUT_S)
    return probe.stop()


def _judge(ledger: Ledger) -> None:
    if ledger.failed or ledger.lost:
        raise DemoError(f"requests failed during the change, which must not happen\n{ledger.told()}")


def _what_next(progress: Progress) -> None:
    tell(
        f"""
All of it took {progress.elapsed()}; again it takes seconds. What to try next:

  export KUBECONFIG=$(.venv/bin/python -m e2e.clusters kubeconfig)
  export PATH=$(dirname $(.venv/bin/python -m e2e.clusters binary kubectl)):$PATH
  kubectl -n {NAMESPACE} get inference
  kubectl -n {NAMESPACE} describe ipl {client.PIPELINE}
  kubectl -n {NAMESPACE} scale imdl {model.MODEL} --replicas=2
  kubectl explain inferencemodels.podium.dev.spec
  kubectl apply -f examples/hello/hello.yaml
  kubectl -n {NAMESPACE} port-forward service/{client.PIPELINE} 8080:80
  curl -s localhost:8080{client.PATH} -d '{client.body(["Hello there."])}'

To remove it:

  make demo-down      what the demo installed
  make cluster-down   the cluster"""
    )
