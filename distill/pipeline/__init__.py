"""The whole, in order: a recipe's teacher, student and steps, measured side by side, told in a folder."""

from distill.pipeline.helping import serve_unless_first
from distill.pipeline.running import run, sliver
from distill.pipeline.state import Asked, choose_folder

__all__ = ["Asked", "choose_folder", "run", "serve_unless_first", "sliver"]
