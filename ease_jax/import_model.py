"""Makes a run of a model that was trained elsewhere; downloads nothing.

  python -m ease_jax.import_model --from=DIR --workdir=runs/imported

DIR is a folder as `transformers` saves it: config.json, tokenizer.json and one
or more *.safetensors; or it is a file NAME.gguf. Afterwards
`python -m ease_jax.main --workdir=... --mode=evaluate` works as on any run, and
so do report, generate and export; `train.init_from` starts another run from it.
"""

from collections.abc import Sequence

from absl import app, flags, logging

from ease_jax import machine
from ease_jax.machine import fail

_FROM = flags.DEFINE_string('from', None, 'Folder of the downloaded model.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the new run.')
_READOUTS = flags.DEFINE_multi_integer(
  'readout', [], 'A layer that is read, several times; never = all are.'
)
_CONTEXT = flags.DEFINE_integer(
  'context', 512, 'Tokens of a window (data.seq_len).', lower_bound=2
)


def main(argv: Sequence[str]) -> None:
  if argv[1:]:
    fail(f'unexpected argument {argv[1]!r}; flags start with --')
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax.checks import ConfigError
  from ease_jax.importing import import_model

  logging.set_verbosity(logging.ERROR)
  try:
    import_model(
      str(_FROM.value),
      str(_WORKDIR.value),
      _CONTEXT.value or 0,
      _READOUTS.value or (),
    )
  except (ConfigError, OSError) as error:
    fail(error)


if __name__ == '__main__':
  machine.keep_mapped()
  machine.print_anything()
  flags.mark_flags_as_required(['from', 'workdir'])
  with machine.stopped_in_a_line():
    app.run(main)
