"""What differs between the families of experiments, one module each."""
