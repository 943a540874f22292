"""Video: decoding, the frame cache, and its windows and clips."""
