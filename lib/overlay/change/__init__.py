"""Overlays that are made into others: larger, smaller, packed, repaired."""
