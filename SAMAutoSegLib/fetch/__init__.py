"""Files from elsewhere: over HTTP, out of a published package, or from a local folder."""
