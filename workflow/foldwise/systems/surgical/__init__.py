"""Surgical workflow: tools and phase in every frame of a video."""
