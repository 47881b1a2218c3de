"""A session in overlays: asked for, planned, launched."""
