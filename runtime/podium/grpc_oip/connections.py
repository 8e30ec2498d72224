"""How long a gRPC connection lives, and what its peer may do with it. Pure: options of gRPC's own server."""

from podium.http.transport.limits import HEAD_TIMEOUT_S, MAX_CONNECTIONS

AGE_JITTER = 0.1
"""gRPC ends a connection up to so much of its age early or late, so that not all of them come back at once."""
LONGEST_CALL_S = 3600.0 + 60.0
"""Calls under way on a connection that is at its end: each has its deadline, at most the largest timeoutSeconds."""
IDLE_S = 120.0
"""As HTTP's."""
KEEPALIVE_S = 30.0
"""Silence after which a peer is asked whether it is still there."""
KEEPALIVE_TIMEOUT_S = 20.0
LEAST_BETWEEN_PINGS_S = 10.0
"""Clients ping to keep connections through load balancers, tens of seconds apart."""
STRIKES = 2
"""Pings that came too soon, before their sender is sent away."""


IDENTITY_ALONE = 1 << 0
"""Of gRPC's compression algorithms. What a kilobyte becomes in memory is known with no other, before it is there; HTTP
takes no compressed bodies either."""


def server_options(max_message_bytes: int, age_s: float) -> list[tuple[str, int]]:
    """A connection of `age_s` is told to go away (GOAWAY): calls under way are answered on it, and the client's next
    ones come over a new connection, which a Service may give to another pod."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ALONE),
        # Otherwise the window of each stream grows with the speed of its connection, to megabytes that come before the
        # call's message is asked for. Once it is, the window is as large as the message.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", _ms(age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(LONGEST_CALL_S)),
        ("grpc.max_connection_idle_ms", _ms(IDLE_S)),
        ("grpc.keepalive_time_ms", _ms(KEEPALIVE_S)),
        ("grpc.keepalive_timeout_ms", _ms(KEEPALIVE_TIMEOUT_S)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(LEAST_BETWEEN_PINGS_S)),
        ("grpc.http2.max_ping_strikes", STRIKES),
        # Without it a ping beside no call counts as a strike if the last one was less than two hours ago.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", _ms(HEAD_TIMEOUT_S)),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ]


def longest_age_s(age_s: float) -> float:
    """No connection takes new calls for longer, as gRPC spreads it."""
    return age_s * (1 + AGE_JITTER)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
