"""Scores by named protocols, independent of how a prediction was made."""
