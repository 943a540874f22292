"""Models and data for other programs: ONNX with a runner, MONAI bundles, raw data sets of nnU-Net."""
