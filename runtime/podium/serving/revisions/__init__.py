"""From an assignment to what takes traffic: revisions loaded, warmed, routed to, drained."""
