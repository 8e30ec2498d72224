"""What calls of models in other pods have in common where they go wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from podium.errors import RemoteUnavailable

MAX_RETRY_AFTER_S = 60.0


@contextmanager
def lost_connections(named: str) -> Iterator[None]:
    """Raises RemoteUnavailable for what httpx says of the connection. `named`: the model and where it is."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise RemoteUnavailable(f"{named} cannot be reached: {_reason(error)}", sent=False) from error
    except httpx.HTTPError as error:
        raise RemoteUnavailable(f"{named} broke the connection: {_reason(error)}", sent=True) from error


def retry_after_s(response: httpx.Response) -> float:
    """When to ask again, as the answer says; 1 where it does not."""
    given = response.headers.get("retry-after", "")
    return min(MAX_RETRY_AFTER_S, float(given)) if given.isdigit() else 1.0


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
