"""Segmenting, clicks and training in processes of their own; see `client` and `jobs`."""
