"""How an adapted model learns from a few labeled slices; one file a method."""
