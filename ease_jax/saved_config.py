"""A `config.json` as a config file: `--config=saved_config.py:config.json`."""

import pathlib

from ease_jax import workdir
from ease_jax.config import Config


def get_config(path: str) -> Config:
  """The config in a file that a run wrote.

  Args:
    path: of the file.

  Raises:
    ConfigError: it is missing, damaged, or of another version.
  """
  return workdir.read_config_file(pathlib.Path(path))
