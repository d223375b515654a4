"""Writes a run as a folder that `transformers` loads.

  python -m ease_jax.export_model --workdir=runs/imported --to=DIR

`--layers=N` keeps the layers up to a readout: a model that always exits there.
Gates and the norms of other readouts lie beside it, in exits.safetensors.
"""

from collections.abc import Sequence

from absl import app, flags, logging

from ease_jax import machine
from ease_jax.machine import fail

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a run.')
_TO = flags.DEFINE_string('to', None, 'Folder that is made.')
_LAYERS = flags.DEFINE_integer(
  'layers', 0, 'Layers that are kept, up to a readout; 0 = all.', lower_bound=0
)


def main(argv: Sequence[str]) -> None:
  if argv[1:]:
    fail(f'unexpected argument {argv[1]!r}; flags start with --')
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax.checks import ConfigError
  from ease_jax.exporting import export_model

  logging.set_verbosity(logging.ERROR)
  try:
    export_model(str(_WORKDIR.value), str(_TO.value), _LAYERS.value or 0)
  except (ConfigError, OSError) as error:
    fail(error)


if __name__ == '__main__':
  machine.print_anything()
  flags.mark_flags_as_required(['workdir', 'to'])
  with machine.stopped_in_a_line():
    app.run(main)
