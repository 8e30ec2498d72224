"""The operator's calls to the admin port of a pod: PUT assignment, GET report."""
