"""Task files of lm-evaluation-harness on data of the machine: no network."""

import json

CHOICES = """task: which_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
WRITING = """task: which_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until:
    - ". "
  max_gen_toks: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
ROLLING = """task: whole_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"""
GROUP = """group: both
task:
  - which_word
  - which_text
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata:
  version: 1.0
"""
TASKS = ('which_word', 'which_text', 'whole_text')
DOCUMENTS = [
  {
    'question': f'the {first} sat on the ',
    'choices': ['cat', 'mat', 'dog'],
    'label': 0 if first == 'mat' else 1,
    'answer': f'{second}.',
    'text': f'the {first} sat on the {second}. ' * repeats,
  }
  for first, second, repeats in [
    ('cat', 'mat', 1),
    ('mat', 'cat', 4),
    ('dog', 'mat', 2),
    ('cat', 'mat on the cat on the', 3),
  ]
]


def write(folder):
  """Puts the files of all tasks, and their data, into a folder."""
  data = folder / 'data.json'
  data.write_text('\n'.join(map(json.dumps, DOCUMENTS)) + '\n')
  files = {'words': CHOICES, 'texts': WRITING, 'rolling': ROLLING}
  for name, content in files.items():
    (folder / f'{name}.yaml').write_text(content.format(data=data))
  (folder / 'both.yaml').write_text(GROUP)
  return folder
