"""Prometheus series, read off plain counters at each scrape."""
