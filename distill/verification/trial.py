"""Run as a script: opens a stranger's tokenizer.json and cuts a few texts, in a process that can be ended.

A tokenizer's regular expressions and replacements can be made to take for ever, or all memory.
"""

import sys
from pathlib import Path

MEMORY = 8 << 30
TEXTS = ["A text of yours, 1 of 2.", "a" * 200, " " * 200, "", "Ünïcode — 漢字 🙂\n\ttabs"]


def limit_memory() -> None:
    """No more than MEMORY, where the system can hold a process to that."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not on Windows, not below a limit that is there already
        return


if __name__ == "__main__":
    limit_memory()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(sys.argv[1])))
    tokenizer.no_truncation()  # one that cuts the second of two texts refuses a single long one
    tokenizer.encode_batch(TEXTS)
