"""Adapt Segment Anything to medical volumes from a handful of corrected slices."""

__version__ = "0.1.0"
