"""Settings of all tests."""

from hypothesis import settings

# What CI runs must not differ from one run to the next; the search for what nobody has thought of is `make fuzz`.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile("repeatable")
