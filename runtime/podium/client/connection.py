"""What both clients are: a pool of keep-alive connections to one address, and the error of a call."""

from types import TracebackType
from typing import Self

import httpx


class ClientError(Exception):
    """The answer is an error, or there is none. `status` is None where nothing came back."""

    def __init__(self, message: str, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Connection:
    """To one address. Nothing is retried: what to do about a 503 is the caller's choice."""

    def __init__(self, base_url: str, *, timeout_s: float = 60.0, api_key: str | None = None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()
