"""Compare a segmentation with a reference and draw the result."""
