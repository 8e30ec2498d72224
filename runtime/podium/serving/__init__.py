"""Serving: from an admitted request to a worker process, and from an assignment to what takes traffic."""
