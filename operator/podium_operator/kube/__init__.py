"""The only package that talks HTTP to the API server. Manifests are plain mappings, in and out."""
