"""Is this node ready, and what lies on it: for the site's admin."""
