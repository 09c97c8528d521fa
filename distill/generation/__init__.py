"""Writing text token by token with a graph: greedily, or with beams. No torch."""

from distill.generation.rules import Rules, read_config, read_rules, rules_of, words_of
from distill.generation.searching import Writer, write
from distill.generation.text import OnnxGenerator

__all__ = ["OnnxGenerator", "Rules", "Writer", "read_config", "read_rules", "rules_of", "words_of", "write"]
