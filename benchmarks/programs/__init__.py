"""Servers to compare with, each one file that runs in its peer's own environment: `python FILE PORT [OPTION …]`.

They answer y = 2x, as plainly as that server lets one write it. They import nothing of this project.
"""
