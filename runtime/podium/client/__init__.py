"""A small client for what Podium serves."""

from podium.client.sync import Answer, Client, ClientError

__all__ = ["Answer", "Client", "ClientError"]
