"""The panels of the SAMAutoSeg module; files without Qt or Slicer in them run in plain Python."""
