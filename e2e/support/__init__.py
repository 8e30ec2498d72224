"""What the end-to-end tests are written with: kubectl, waits, resources to apply, faults to cause, and dumps."""
