"""Run folders read back: curves, comparisons, reports, figures."""
