"""Pictures of a pipeline's graph: for `podium graph` and for the live page of the admin port. Pure."""
