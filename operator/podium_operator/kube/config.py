"""Where the API server is and as whom we speak to it: a kubeconfig, or the pod's service account.

Owns loading and refreshing of credentials. `kubernetes.aio` reads the files; what it found is handed to the client and,
as a `Connection`, to the watch runtime, so that both speak to the same server as the same user.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from podium_operator.kube.errors import KubeError

_EXEC_REFRESH_S = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """What any HTTP client needs to reach the API server as the operator does."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    scheme: str | None
    token: str | None
    insecure: bool
    proxy: str | None


class Credentials:
    """A loaded configuration that stays fresh: `authorization()` re-reads rotated tokens, `reload()` all."""

    def __init__(self, configuration: Configuration, *, kubeconfig: Path | None) -> None:
        self.configuration = configuration
        self._kubeconfig = kubeconfig
        self._reloaded_at = asyncio.get_running_loop().time()

    @classmethod
    async def load(cls, kubeconfig: Path | None = None) -> "Credentials":
        """From `kubeconfig` where given, else $KUBECONFIG, else the service account, else ~/.kube/config."""
        path = kubeconfig or _kubeconfig_path()
        return cls(await _configuration(path), kubeconfig=path)

    async def authorization(self) -> str | None:
        """The Authorization header, or None where a client certificate is all there is.

        Costs a file read a minute for a service account, and a reload of the kubeconfig a minute where a plugin or an
        auth provider issues its tokens.
        """
        now = asyncio.get_running_loop().time()
        if self._kubeconfig is not None and now - self._reloaded_at > _EXEC_REFRESH_S and self._has_token():
            await self.reload()
        header = await self.configuration.get_api_key_with_prefix("BearerToken")
        return str(header).strip() if header else None

    async def reload(self) -> None:
        """Read everything again, as after a 401."""
        fresh = await _configuration(self._kubeconfig)
        self._reloaded_at = asyncio.get_running_loop().time()
        self.configuration.api_key = fresh.api_key
        self.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook

    async def connection(self) -> Connection:
        """The present values, for a client that keeps its own session."""
        header = await self.authorization()
        scheme, _, token = header.partition(" ") if header else ("", "", "")
        found = self.configuration
        return Connection(
            server=str(found.host),
            ca_path=found.ssl_ca_cert,
            certificate_path=found.cert_file,
            key_path=found.key_file,
            scheme=scheme or None,
            token=token or None,
            insecure=not found.verify_ssl,
            proxy=found.proxy,
        )

    def _has_token(self) -> bool:
        return bool(self.configuration.api_key)


def _kubeconfig_path() -> Path | None:
    """None: use the service account."""
    named = os.environ.get("KUBECONFIG")
    if named:
        return Path(named)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    return Path.home() / ".kube" / "config"


async def _configuration(kubeconfig: Path | None) -> Configuration:
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(
                config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError, TypeError, AttributeError) as exc:
        where = "the pod's service account" if kubeconfig is None else f"kubeconfig {kubeconfig}"
        raise KubeError(f"no usable credentials in {where}: {exc}") from exc
    return configuration
