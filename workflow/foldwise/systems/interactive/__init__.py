"""Interactive volumetric segmentation: hints on a slice, a memory network for the others, rounds."""
