"""An opened experiment: names of its files, its jobs' resources, and what depends on what."""
