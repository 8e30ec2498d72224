"""Kubernetes clusters that the end-to-end tests and `make demo` run on, behind one interface.

`base` states the interface; `existing`, `kind` and `built` implement it; `select` chooses. `built` makes a real cluster
of two nodes on one Linux machine from the upstream components, for machines where no container engine runs.
Nothing here imports podium's own packages, and nothing needs more than the standard library.
"""
