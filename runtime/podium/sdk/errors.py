"""What goes wrong while a function is traced. Each message says what to write instead. Imports nothing."""


class TraceError(Exception):
    """The function does what a graph cannot: its author must write it otherwise."""


class NotTracing(TraceError, RuntimeError):  # noqa: N818
    """A model of a pipeline was called by ordinary code. Only a function that is being traced can."""
