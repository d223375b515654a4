"""Cached generation with exits that skip work.

`generate` and `stream` continue prompts; `step`, `prefill` and `cache` are
what they are made of.
"""

from ease_jax.decode.adaptive import Adaptive as Adaptive
from ease_jax.decode.adaptive import Way as Way
from ease_jax.decode.cache import Cache as Cache
from ease_jax.decode.cache import commit as commit
from ease_jax.decode.cache import grow as grow
from ease_jax.decode.cache import init_cache as init_cache
from ease_jax.decode.charges import compute_decoder as compute_decoder
from ease_jax.decode.drafts import Draft as Draft
from ease_jax.decode.drafts import Tally as Tally
from ease_jax.decode.drafts import candidates as candidates
from ease_jax.decode.export import exported as exported
from ease_jax.decode.loop import Counts as Counts
from ease_jax.decode.loop import Generated as Generated
from ease_jax.decode.loop import check_prompts as check_prompts
from ease_jax.decode.loop import generate as generate
from ease_jax.decode.loop import stream as stream
from ease_jax.decode.options import Options as Options
from ease_jax.decode.sampling import Sampling as Sampling
from ease_jax.decode.speculation import speculate as speculate
