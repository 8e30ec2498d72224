"""A small client for what Podium serves."""

from podium.client.connection import ClientError
from podium.client.sync import Answer, Client

__all__ = ["Answer", "Client", "ClientError"]
