"""A line on stderr for whatever takes long, so that nobody wonders."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

FIRST_S = 5.0  # the second line comes after twice as long, and so on


@contextlib.contextmanager
def stage(words: str) -> Iterator[None]:
  """Says that something is still going on, ever less often.

  Args:
    words: what is going on.
  """
  over = threading.Event()
  arguments = (words, over, time.monotonic())
  thread = threading.Thread(target=_say, args=arguments, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _say(words: str, over: threading.Event, start_s: float) -> None:
  next_s = FIRST_S
  while not over.wait(start_s + next_s - time.monotonic()):
    print(f'{words}, {duration(next_s)}', file=sys.stderr, flush=True)
    next_s *= 2


def duration(seconds: float) -> str:
  """Seconds as a clock shows them: 90.4 is 1:30, 3700 is 1:01:40."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minute:02}:{second:02}'
  return f'{minute}:{second:02}'
