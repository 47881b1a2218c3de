"""A new overlay: asked for, filled, made."""
