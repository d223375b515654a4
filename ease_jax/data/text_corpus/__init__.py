"""The package's own TFDS dataset: plain text files, split into documents."""
