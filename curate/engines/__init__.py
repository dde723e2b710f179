"""Engines answer two kinds of request: `score` (probability of each label) and `generate` (text). Nothing heavy is imported on loading."""
