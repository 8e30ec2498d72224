"""A certificate authority for one cluster, kept in one folder, made with the `openssl` program."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from .shell import Argv, run

_DAYS = "365"
_CURVE = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


class Authority:
    """Signs the certificates of a cluster's parts. Every method is a no-op where its files exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.certificate = folder / "ca.crt"
        if not self.certificate.exists():
            key = self.key("ca")
            argv: Argv = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=podium-cluster", "-days", _DAYS]
            run([*argv, "-out", self.certificate], timeout=30)

    def key(self, name: str) -> Path:
        """A private key of its own."""
        path = self.folder / f"{name}.key"
        if not path.exists():
            run(["openssl", "genpkey", *_CURVE, "-out", path], timeout=30)
            path.chmod(0o600)
        return path

    def public_key(self, name: str) -> Path:
        """The public half of `key(name)`."""
        path = self.folder / f"{name}.pub"
        if not path.exists():
            run(["openssl", "pkey", "-in", self.key(name), "-pubout", "-out", path], timeout=30)
        return path

    def issue(
        self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Certificate and key for `user` in `groups`; `hosts` are `DNS:…` and `IP:…` names a server answers to."""
        path = self.folder / f"{name}.crt"
        key = self.key(name)
        if not path.exists():
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
            request = run(["openssl", "req", "-new", "-key", key, "-subj", subject], timeout=30)
            extensions = self.folder / f"{name}.ext"
            names = [f"subjectAltName={','.join(hosts)}"] if hosts else []
            usage = ["keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
            extensions.write_text("\n".join([*usage, *names]) + "\n")
            argv: Argv = [
                "openssl",
                "x509",
                "-req",
                "-CA",
                self.certificate,
                "-CAkey",
                self.key("ca"),
                "-CAcreateserial",
            ]
            run([*argv, "-days", _DAYS, "-extfile", extensions, "-out", path], stdin=request, timeout=30)
        return path, key

    def kubeconfig(self, name: str, server: str, *, user: str, groups: Sequence[str] = ()) -> Path:
        """A self-contained kubeconfig with which `user` reaches `server`. JSON, which is YAML too."""
        path = self.folder / f"{name}.kubeconfig"
        certificate, key = self.issue(name, user=user, groups=groups)
        cluster = {"server": server, "certificate-authority-data": _encoded(self.certificate)}
        credentials = {"client-certificate-data": _encoded(certificate), "client-key-data": _encoded(key)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "podium", "cluster": cluster}],
            "users": [{"name": name, "user": credentials}],
            "contexts": [{"name": "podium", "context": {"cluster": "podium", "user": name}}],
            "current-context": "podium",
        }
        path.write_text(json.dumps(content, indent=1))
        path.chmod(0o600)
        return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
