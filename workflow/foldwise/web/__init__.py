"""The local web page of the interactive system."""
