"""Strict JAX for every test, and programs that compile in a third of the time.

All processes of a run, also those that tests start, share one cache of
compiled programs, which is empty at first and gone afterwards. XLA optimises
little, with its older code generator, which spares most of its own time, most
of what a test takes. `tests/test_exact.py` wants programs as users run them.
"""

import gc
import os
import shutil
import subprocess
import sys
import tempfile

import jax
import pytest
from absl import flags

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_legacy_prng_key', 'error')

# JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test: everything as users run it.
AS_USERS = os.environ.get('JAX_DISABLE_MOST_OPTIMIZATIONS') == '0'
# XLA's older code generator, which takes half the time of the present one, on a
# program as one piece: another fifth less than one cut up for many cores.
CHEAP = (
  '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)


def is_known(xla_flags):
  """Whether this XLA has such flags; it ends processes that give it others."""
  done = subprocess.run(
    [sys.executable, '-c', 'import jax; jax.numpy.zeros(1)'],
    env=os.environ | {'XLA_FLAGS': xla_flags},
    capture_output=True,
  )
  return done.returncode == 0


if 'PYTEST_XDIST_WORKER' not in os.environ:  # a worker has its parent's
  COMPILED = tempfile.TemporaryDirectory(prefix='ease_jax_tests_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = COMPILED.name
  if not AS_USERS and 'XLA_FLAGS' not in os.environ:
    os.environ['XLA_FLAGS'] = CHEAP if is_known(CHEAP) else ''

QUICK = {
  'jax_compilation_cache_dir': os.environ['JAX_COMPILATION_CACHE_DIR'],
  # Without a size: with one, every new entry looks at all others. Who reads
  # half an entry compiles; pyproject.toml allows the warning.
  'jax_compilation_cache_max_size': -1,
  'jax_persistent_cache_min_compile_time_secs': 0,
  'jax_persistent_cache_min_entry_size_bytes': -1,
  'jax_disable_most_optimizations': int(not AS_USERS),
}
for name, value in QUICK.items():
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)  # for processes that tests start


# Files that take longest.
SLOW = (
  'test_adaptive',
  'test_checkpoint',
  'test_clock',
  'test_decode',
  'test_decode_costs',
  'test_distillation',
  'test_docs',
  'test_evaluate',
  'test_exact',
  'test_exits',
  'test_export',
  'test_extension',
  'test_fuzz_config',
  'test_fuzz_files',
  'test_gates',
  'test_generate_mode',
  'test_halting',
  'test_init_from',
  'test_layer_dropout',
  'test_likelihoods',
  'test_lm_eval',
  'test_loss_segments',
  'test_losses',
  'test_main',
  'test_mod',
  'test_mor',
  'test_notebook',
  'test_optimizer',
  'test_per_run',
  'test_pretrained',
  'test_promises',
  'test_readout',
  'test_refine',
  'test_resplits',
  'test_resume',
  'test_rows',
  'test_runs',
  'test_run_files',
  'test_run_places',
  'test_speculate',
  'test_study',
  'test_study_checks',
  'test_teacher',
  'test_train_flops',
  'test_train_loop',
)


# The same property once more, on another body, policy or signal, or by a longer
# way: parts of the names of tests, by file. `make test-all` runs them too.
AGAIN = {
  'test_adaptive': (
    'test_where_nobody_is_right_nobody_drafts',
    'test_what_was_learned_outlives_a_program',
    'each_other[refine]',
    'held_to_the_full_model[0-settings1]',
    'held_to_the_full_model[1-settings1]',
    'held_to_the_full_model[2-settings1]',
    'each_other[hrm]',
    'test_sampled_tokens_have_the_full_models_distribution',
  ),
  'test_bodies_and_signals': (
    'refine-ouro-copy_state',
    'named-max_prob-latest',
    'parallel-max_prob-copy_state',
    'stack-kl-copy_state',
    'stack-state_cosine-drop',
    'gated-dat-drop',
    'adapted-shortlist-copy_state',
    'screened-shortlist-copy_state',
    'stack-patience-recompute',
    'refine-max_prob-recompute',
    'refine-max_prob-drop',
    'learned-kl-latest',
    'random-patience-drop',
    'middle-state_change-copy_state',
    'hrm-max_prob-copy_state',
    'refine-max_prob-copy_state',
    'hrm-q_halt-latest',
    'mod-max_prob-drop',
    'mod-max_prob-recompute',
    'mor-max_prob-drop',
    'mor-max_prob-latest',
    'text-kl-latest',
    'once-kl-copy_state',
    'predictor-kl-copy_state',
    'film-kl-copy_state',
    'refine-dat_multinomial-latest',
    'refine-shortlist-recompute',
    'lora-kl-copy_state',
    'mor-max_prob-recompute',
    'mod-max_prob-copy_state',
    'near-max_prob-copy_state',
    'near-max_prob-recompute',
    'capped-max_prob-copy_state',
    'capped-kl-recompute',
    'biased-max_prob-drop',
  ),
  'test_clock': (
    '[mor-recompute]',
    '[near-recompute]',
    '[stack-recompute]',
    'test_the_clock_runs_on_points_spread_over_the_sweep',
  ),
  'test_decode': (
    'core-state_change-latest',
    'is_explicit[copy_state]',
    'stack-max_prob-drop',
    'stack-patience-recompute',
    'row_is_the_same_alone[drop]',
    'row_is_the_same_alone[recompute]',
    'hrm-q_halt-recompute',
    'near-max_prob-drop',
    'near-max_prob-recompute',
  ),
  'test_decode_costs': (
    'stack-shortlist-copy_state',
    'test_hrm_is_charged_all_its_layers_under_recompute',
    'stack-kl-copy_state',
    'stack-state_cosine-copy_state',
    'stack-max_prob-drop',
    'not_charged[drop]',
    'not_charged[off]',
  ),
  'test_distillation': ('[two-other]', '[one-other]', '[two-own]'),
  'test_extension': (
    'test_it_generates_from_the_command_line',
    'decoding_does[drop]',
    'decoding_does[recompute]',
    'decoding_does[earliest]',
    'evaluation_says[recompute]',
  ),
  'test_export': (
    'without_the_source[copy_state]',
    'without_the_source[recompute]',
  ),
  'test_fuzz_config': (
    'any_value_in_any_field[1]',
    'any_value_in_any_field[2]',
  ),
  'test_gates': (
    'alone[refine]',
    'no_gradient[refine]',
    'every_gate_learns[refine]',
    'weigh_the_losses_of_readouts[stack]',
    'unless_a_gate_weighs_every_readout_counts_in_full',
  ),
  'test_loss_segments': (
    '[random]',
    'exit_consistent_evaluation[hrm]',
    'manual_steps[hrm]',
  ),
  'test_main': ('unlocks[2-1-interrupted]',),
  'test_mesh': ('test_so_is_each_other_method',),
  'test_mod': (
    '[token]',
    'router_learns[token runs]',
    'later_token[token runs]',
  ),
  'test_mor': ('costs_what_it_ran[token]', 'later_token[token]'),
  'test_shortcut': (
    'the_same_shortcut[0.1]',
    'test_a_resumed_run_takes_the_same_shortcuts',
  ),
  'test_study': ('test_another_evaluation_is_made_again',),
  'test_lanes': ('the_equations[1]', 'the_equations[3]'),
  'test_pretrained': (
    'not_exported[rope_base-777.0]',
    'a_gradient_is_that_of_transformers[neox]',
    'test_training_goes_on_from_it_and_knows_where_it_came_from',
    'test_a_model_of_ours_with_a_window_is_a_mistral_elsewhere',
    'elsewhere[char]',
    'elsewhere[bpe]',
    'not_exported[rope_factors',
    'a_gradient_is_that_of_transformers[linear]',
    'a_gradient_is_that_of_transformers[qwen3]',
    'a_gradient_is_that_of_transformers[gpt2]',
    'a_gradient_is_that_of_transformers[neox_serial]',
    'a_gradient_is_that_of_transformers[llama_tied]',
    'a_gradient_is_that_of_transformers[qwen2]',
    'no_bit[llama_tied]',
    'no_bit[qwen2]',
    'no_bit[linear]',
    'no_bit[mistral]',
    'no_bit[neox_serial]',
    'loads_what_was_exported[linear]',
    'loads_what_was_exported[llama3]',
    'loads_what_was_exported[llama_tied]',
    'loads_what_was_exported[neox_serial]',
    'loads_what_was_exported[olmo2]',
    'loads_what_was_exported[qwen2]',
  ),
  'test_per_run': (
    'without[float32-lora]',
    'without[bfloat16',
    'were_before_it[lora]',
    'matrices_of_runs[lora]',
    'gives_each_run_its_own[False-film]',
    'gives_each_run_its_own[False-lora]',
    'gives_each_run_its_own[True-lora]',
  ),
  'test_refine': (
    'same_weights[named]',
    'any_length[random]',
    'segments_only[1-zeros',
    'segments_only[2-learned',
    'same_weights[1]',
    'same_weights[2]',
  ),
  'test_runs': (
    'no_gradient[1-',
    'no_gradient[2-',
    'no_gradient[6-',
    'no_gradient[3-concat',
  ),
  'test_hrm': ('updates_learn[1]', 'updates_learn[2]', 'updates_learn[4]'),
  'test_resume': (
    'runs_resume_too[changes6',
    'resumes_too[hrm',
    'runs_resume_too[changes0',
    'runs_resume_too[changes1',
    'runs_resume_too[changes2',
    'runs_resume_too[changes3',
    'runs_resume_too[changes4',
  ),
  'test_rows': ('plain_run[2]',),
  'test_speculate': (
    'distribution[settings1]',
    'draft_for_more[none]',
    'draft_for_more[lanes]',
  ),
  'test_teacher': ('test_segments_that_teach_themselves_resume_too',),
  'test_train_flops': (
    '-changes6]',
    '-changes9]',
    '-changes3]',
    '-changes2]',
    '-changes4]',
    '-changes5]',
    '-changes7]',
    '-changes10]',
  ),
  'test_docs': ('test_code_runs[notebook.md]',),
}


def pytest_collection_modifyitems(config, items):
  """`make check` leaves slow files out, `make test` repetitions.

  Slow files come first, so that no process is left alone with one at the end.
  """
  if config.args == config.getini('testpaths'):  # all tests
    _check_again({(item.path.stem, item.name) for item in items})
  items.sort(key=lambda item: item.path.stem not in SLOW)
  for item in items:
    if item.path.stem in SLOW:
      item.add_marker(pytest.mark.slow)
    parts = AGAIN.get(item.path.stem, ())
    if any(part in item.name for part in parts):
      item.add_marker(pytest.mark.again)


def pytest_collection_finish():
  """What was imported stays: collections need not look at it again."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000)  # tracing makes many objects, and few cycles


def _check_again(names):
  """A test that was renamed is no repetition any more, and says so."""
  for stem, parts in AGAIN.items():
    for part in parts:
      found = any(stem == file and part in name for file, name in names)
      if not found:
        raise pytest.UsageError(
          f'tests/conftest.py: AGAIN names {part!r} of {stem}, and no test has '
          'this in its name; correct it'
        )


@pytest.fixture(autouse=True, scope='session')
def parsed_flags():
  if not flags.FLAGS.is_parsed():  # TFDS and grain read absl flags
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory):
  """(text, workdir) of a run with everything that a run leaves behind.

  Tests change copies of it.
  """
  import small_run

  from ease_jax import run

  folder = tmp_path_factory.mktemp('finished_run')
  text = folder / 'text.txt'
  text.write_text(small_run.TEXT)
  run.run(small_run.make_full_config(text), folder / 'run')
  return text, folder / 'run'


@pytest.fixture(scope='session')
def exiting_run(tmp_path_factory):
  """(config, workdir) of a run with exits, its first readout near the last."""
  import tiny
  from ease_jax import config, run

  folder = tmp_path_factory.mktemp('exiting_run')
  path = folder / 'text.txt'
  path.write_text('the cat sat on the mat. ' * 80)
  c = config.base()
  c.data.update(
    source='text',
    path=(str(path),),
    seq_len=32,
    select_fraction=0.2,
    test_fraction=0.2,
  )
  tiny.update_model(
    c.model, num_layers=2, dim=16, num_heads=2, num_kv_heads=1, mlp_dim=16
  )
  c.loss.weights = 'uniform'
  c.optimizer.update(learning_rate=0.01, warmup_steps=5)
  c.train.update(
    steps=60, batch_size=8, eval_every=60, checkpoint_every=60, log_every=60
  )
  c.evaluate.max_tokens, c.evaluate.speed_tokens = 128, 0
  c.exit.update(
    signals=('max_prob',),
    policies=('copy_state',),
    search_points=0,
    max_ppl_ratio=2.0,
  )
  c.generate.max_new_tokens = 15
  run.run(c, folder / 'run', 'train')
  run.run(c, folder / 'run', 'evaluate')
  return c, folder / 'run'


@pytest.fixture
def copied(finished_run, tmp_path):
  """(config, workdir) of a copy, and of a text that may be changed."""
  import small_run

  text, workdir = finished_run
  shutil.copytree(workdir, tmp_path / 'run')
  return small_run.make_full_config(text), tmp_path / 'run'


@pytest.fixture(autouse=True, scope='module')
def forgotten():
  """A process that keeps the programs of all files becomes slow."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='module')
def optimized():
  """Programs of this file are optimised, as those that users run are."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()
  yield
  jax.config.update('jax_disable_most_optimizations', before)
  jax.clear_caches()
