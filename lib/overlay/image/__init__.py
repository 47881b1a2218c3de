"""What an overlay is, and what it says of itself."""
