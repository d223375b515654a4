"""A profiler trace of what device and host do."""

import contextlib
import os

import jax


def traced(
  folder: str | os.PathLike[str],
) -> contextlib.AbstractContextManager[None]:
  """Writes a trace of what runs within to a folder; the JAX profiler's format.

  It leaves out the frames of Python: gathering those of threads that are
  ending is the likely cause of a process that crashed here.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  return jax.profiler.trace(folder, profiler_options=options)
