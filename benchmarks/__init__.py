"""Measurements behind every claim about speed and size: `make bench`, or `make bench NAME=footprint`.

A bar is a ratio between two things measured in one run, or a size. Nothing measured here is asserted in a test. Each
benchmark checks the answers it times, and writes `results/<name>.json`, met or not.
"""
