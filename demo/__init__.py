"""`make demo`: a cluster, the chart, a real sentence encoder, an answer, and a version swap under load.

`python -m demo up` runs the steps of `demo.up` in order; each does nothing where its result is there already, so that a
second run takes seconds. `python -m demo down` removes what `up` installed and leaves the cluster.
"""
