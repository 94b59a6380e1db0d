"""Between the MRML scene and the library: volumes in, segments out, what the user corrected."""
