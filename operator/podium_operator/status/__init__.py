"""What the operator says about a resource: conditions and rows, from facts. PURE."""
