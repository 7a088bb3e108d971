"""The paper's prompts (section 3.2, appendix B, stages 1 to 3): categories, prompts, audit."""

DEFAULT_OUT = "prompts/corpus.jsonl"
"""Where the recipes of the paper's size look for their prompts."""

PAPER_NUM = 10_000
"""Prompts of the paper's 1K transfer."""
