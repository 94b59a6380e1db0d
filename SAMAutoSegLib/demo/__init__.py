"""The whole loop on a public image."""
