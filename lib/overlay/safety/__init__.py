"""What stands between what is done and somebody's data."""
