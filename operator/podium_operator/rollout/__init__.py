"""What to do next, decided by pure functions over `Observed` and `Desired`: no I/O, no clock.

Actions come back in the order in which they are safe; every one may be the last that this operator performs.
"""
