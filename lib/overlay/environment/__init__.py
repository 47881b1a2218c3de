"""What an overlay carries of itself: what its environments set, where it belongs, how it was made."""
