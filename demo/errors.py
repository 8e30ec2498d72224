"""What can go wrong in the demo."""


class DemoError(RuntimeError):
    """A step could not be done. The message says what was wrong and what to do."""
