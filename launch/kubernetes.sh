#!/usr/bin/env bash
# As a JobSet on Kubernetes (jobset.sigs.k8s.io). Not run by us.
#
#   EASE_NAME=standard EASE_IMAGE=registry.example/ease_jax:0.1.0 \
#     EASE_CLAIM=runs launch/kubernetes.sh \
#     --config=configs/standard.py --workdir=/runs/standard
#
# EASE_NAME    of the JobSet; lower-case letters, digits and hyphens
# EASE_IMAGE   with ease_jax[cuda] installed and configs/ in its workdir
# EASE_CLAIM   PersistentVolumeClaim that all pods may write, mounted at /runs
# EASE_PODS    one process in each (default: 1); more than one train together,
#              with --config.mesh.data=-1 or another mesh of all GPUs
# EASE_GPUS    of each pod (default: 1)
# DRY_RUN=1    print the JobSet, send nothing
#
# A pod that is deleted receives SIGTERM, on which the run saves and stops; the
# same command continues it, once the old JobSet is deleted.
set -euo pipefail
filled=$(
  python3 - "$(dirname "${BASH_SOURCE[0]}")/kubernetes.yaml" "$@" <<'PYTHON'
import json
import os
import re
import string
import sys

_, template, *arguments = sys.argv
values = {'EASE_PODS': '1', 'EASE_GPUS': '1'}
for name in ('EASE_NAME', 'EASE_IMAGE', 'EASE_CLAIM', *values):
  values[name] = os.environ.get(name) or values.get(name, '')
  if not values[name]:
    sys.exit(f'launch/kubernetes.sh: {name} is not set')
for name in ('EASE_PODS', 'EASE_GPUS'):
  if not re.fullmatch('[1-9][0-9]*', values[name]):
    sys.exit(f'launch/kubernetes.sh: {name}={values[name]} is no number')
if not re.fullmatch('[a-z]([-a-z0-9]*[a-z0-9])?', values['EASE_NAME']):
  sys.exit(
    f'launch/kubernetes.sh: EASE_NAME={values["EASE_NAME"]} must be lower-case '
    'letters, digits and hyphens'
  )
if values['EASE_PODS'] != '1':
  arguments.insert(0, '--multihost=env')
for name in ('EASE_IMAGE', 'EASE_CLAIM'):
  values[name] = json.dumps(values[name])  # as YAML quotes it, too
values['EASE_ARGUMENTS'] = json.dumps(arguments)
with open(template, encoding='utf-8') as file:
  print(string.Template(file.read()).substitute(values), end='')
PYTHON
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%s\n' "$filled"
else
  kubectl apply -f - <<<"$filled"
fi
