"""One thin module per rule of the workflow: read, call, write atomically."""
