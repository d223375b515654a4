"""Tables, figures and the page that a run leaves behind."""

from ease_jax.report.page import write_report

__all__ = ['write_report']
