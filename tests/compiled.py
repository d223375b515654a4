"""What a compiled program executes, read from its text."""

import re

HEAD = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
BRANCHES = re.compile(
  r'(?:branch_computations=\{([^}]*)\}'
  r'|true_computation=(%[\w.-]+), false_computation=(%[\w.-]+))'
)
CALLED = re.compile(r'(?:calls|to_apply|body|condition)=%?([\w.-]+)')
PRODUCTS = (' dot(', ' convolution(', '__onednn$matmul')


def computations(text):
  """({name: its lines}, the name of the one that is entered)."""
  lines_of = {}
  entry = ''
  lines = []
  for line in text.splitlines():
    head = HEAD.match(line)
    if head:
      lines = lines_of.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)
  return lines_of, entry


def products_always_run(text):
  """Products of matrices that are executed whatever the data are.

  Those in a branch of a conditional are not; what a loop or a fusion calls is.

  Returns:
    Their lines.
  """
  lines_of, entry = computations(text)
  waiting = [entry]
  reached = set()
  found = []
  while waiting:
    name = waiting.pop()
    if name in reached:
      continue
    reached.add(name)
    for line in lines_of[name]:
      if any(product in line for product in PRODUCTS):
        found.append(line.strip())
      waiting.extend(CALLED.findall(line))
  return found


def products_in_branches(text):
  """How many branches of conditionals multiply matrices."""
  lines_of, _ = computations(text)
  num = 0
  for first, *pair in BRANCHES.findall(text):
    names = [name for name in first.split(', ') if name] or pair
    for name in names:
      inner = '\n'.join(lines_of[name.lstrip('%')])
      num += any(product in inner for product in PRODUCTS)
  return num
