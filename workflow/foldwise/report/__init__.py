"""Tables, curves, overlays and one HTML page."""
