"""CT and MR volumes: reading, lungs, cropping, patches, inference, metrics, export."""
