"""The Helm release of the demo."""

from e2e.clusters.paths import REPOSITORY

from demo.images import Images
from demo.target import Target

RELEASE = "podium"
SYSTEM = "podium-system"


def install(target: Target, images: Images) -> None:
    """`helm upgrade --install`, and wait for the operator. Pods of models are left alone."""
    values = {
        "operator.image.repository": images.operator.repository,
        "operator.image.tag": images.operator.tag,
        "runtime.image.repository": images.runtime.repository,
        "runtime.image.tag": images.runtime.tag,
    }
    sets = [word for name, value in values.items() for word in ("--set-string", f"{name}={value}")]
    chart = str(REPOSITORY / "charts" / "podium")
    options = ["--create-namespace", "--wait", "--timeout=3m", "--history-max=3"]
    target.helm("upgrade", "--install", RELEASE, chart, *options, *sets, namespace=SYSTEM)


def remove(target: Target) -> None:
    """Uninstalls the release and removes its namespace. The CRDs stay, as the chart keeps them."""
    target.helm("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout=2m", namespace=SYSTEM)
    target.kubectl("delete", "namespace", SYSTEM, "--ignore-not-found", timeout=120, namespace=SYSTEM)
