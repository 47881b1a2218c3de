"""Sessions in batch jobs: copies and layers on a disk of the node."""
