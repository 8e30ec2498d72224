"""Manifests of the children, a module per kind. PURE: the same input gives byte-identical output."""
