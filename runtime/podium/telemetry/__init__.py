"""Structured logs and the metrics registry: a leaf that every part of the runtime may use."""
