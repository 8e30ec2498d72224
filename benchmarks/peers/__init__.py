"""Other servers, at pinned versions, each in an environment of its own under the user's cache."""
