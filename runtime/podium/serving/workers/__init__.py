"""Worker processes: forked, watched, restarted, reaped, and what all of a pod share."""
