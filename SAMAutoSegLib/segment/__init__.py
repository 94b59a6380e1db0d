"""Slices to volumes: an adapted model or prompts in, labels on the image's own grid out."""
