"""Surgical workflow: which tools are seen and which phase it is, in every frame of a video."""
