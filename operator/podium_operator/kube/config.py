"""Where the API server is and as whom we speak to it: a kubeconfig, or the pod's service account.

Owns loading and refreshing of credentials, for the client and for the session of the watches alike. `kubernetes.aio`
reads the files and runs the plugins they name.
"""

import asyncio
import os
from pathlib import Path

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from podium_operator.kube.errors import KubeError

_EXEC_REFRESH_S = 60.0


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

    @property
    def server(self) -> str:
        """Base address of the API server."""
        return str(self.configuration.host)

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
