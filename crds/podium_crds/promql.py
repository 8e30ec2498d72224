"""A question to a Prometheus server, whose answer judges a step of a rollout."""

from typing import Annotated, ClassVar

from pydantic import Field

from podium_crds.base import Decimal, Form, Rule, Ruled


class PrometheusCheck(Ruled):
    """A PromQL query that gives one number, and which numbers are well."""

    address: Annotated[
        str,
        Form(
            r"^https?://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?(/[-A-Za-z0-9._~/]*)?$",
            "http://host[:port][/path] or https://…, without user or query",
        ),
        Field(max_length=253),
    ]
    """Where the server is: one that the operator may ask (Helm value operator.prometheusAddresses)."""
    query: Annotated[str, Field(min_length=1, max_length=2048)]
    """PromQL that gives one number: a scalar, or a vector of one series. {{revision}} stands for the new revision,
    {{previous}} for the one it replaces, {{name}} and {{namespace}} for the resource."""
    max_value: Decimal | None = None
    """The largest number that is well."""
    min_value: Decimal | None = None
    """The smallest number that is well."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.maxValue) || has(self.minValue)",
            message="the query is judged by nothing: set maxValue, minValue or both",
            holds=lambda check: check.max_value is not None or check.min_value is not None,
        ),
    )
