"""Video: decoding, the frame cache, and windows and clips of it."""
