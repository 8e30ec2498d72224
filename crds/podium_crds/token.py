"""The admin token: how the operator proves itself to a pod's admin port, and the pod checks it."""

import hashlib
import hmac

MIN_KEY_BYTES = 16
"""A shorter admin key is refused: it could be guessed."""


def admin_token(key: bytes, pod_uid: str) -> str:
    """Bearer token for one pod's admin port: hex HMAC-SHA256 of the pod's UID under the shared admin key.

    Derived per pod, so that a token read off one pod opens no other. White space around the key, as editors leave it in
    Secrets, does not count. Raises ValueError for a key under MIN_KEY_BYTES or an empty UID.
    """
    key = key.strip()
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"admin key has {len(key)} bytes, expected at least {MIN_KEY_BYTES}")
    if not pod_uid:
        raise ValueError("pod UID is empty, expected the pod's metadata.uid")
    return hmac.new(key, pod_uid.encode(), hashlib.sha256).hexdigest()
