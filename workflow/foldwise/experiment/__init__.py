"""An opened experiment: names of its files, what its jobs take, and what depends on what."""
