"""Commands that turn public data layouts and DICOM into a sample sheet and a first experiment."""
