"""Read and write medical images, know where their voxels are, and take them apart into slices."""
