"""TFDS builder that turns text files into documents, without TensorFlow."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from ease_jax.checks import need
from ease_jax.data import files, text


@dataclasses.dataclass(kw_only=True)
class TextCorpusConfig(tfds.core.BuilderConfig):
  """The files to read and the share of characters that is held out."""

  name: str = 'files'
  paths: tuple[str, ...] = ()
  select_fraction: float = 0.05
  test_fraction: float = 0.05


class Builder(tfds.core.GeneratorBasedBuilder):
  """One example per document: `text`, UTF-8."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Documents of plain text files.',
      features=tfds.features.FeaturesDict({'text': tfds.features.Text()}),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # the files are local
    config: Any = self.builder_config  # TFDS knows only its own class
    account = files.Account()
    found = files.find(config.paths, 'FILE', account)
    documents = files.load(found, 'FILE', account)
    files.say(f'text: {account}')

    splits = text.split(documents, config.select_fraction, config.test_fraction)
    for name, texts in splits.items():
      need(
        len(texts) > 0,
        f'FILE: {account.characters} characters leave nothing for the split '
        f'{name}; give more text or other fractions',
      )
    return {name: self._generate_examples(splits[name]) for name in splits}

  def _generate_examples(
    self, texts: list[str]
  ) -> Iterator[tuple[int, dict[str, str]]]:
    for key, document in enumerate(texts):
      yield key, {'text': document}
