"""`podium status`, `promote`, `abort`, `rollback`, `pause`, `resume`: the user's hand on a rollout, from a terminal.

They read and annotate the resource with the user's own rights and talk to nobody else: what they say, GitOps can say.
Loaded by the `podium` command line through the entry points of `podium.commands`.
"""
