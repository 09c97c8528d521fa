"""How each task's rows are read and become tokens: a file a task, and the one dict that names them."""

from distill.data.readers.classification import ClassificationReader
from distill.data.readers.language import LanguageReader
from distill.data.readers.question_answering import AnswerReader
from distill.data.readers.reader import WRITTEN, Cutter, Reader
from distill.data.readers.token_classification import TokenReader
from distill.data.readers.writing import WritingReader
from distill.tasks import CausalLanguageModelling, MaskedLanguageModelling

READERS: dict[str, Reader] = {
    "text-classification": ClassificationReader(),
    "masked-language-modelling": LanguageReader(MaskedLanguageModelling, "masked_language_modelling"),
    "causal-language-modelling": LanguageReader(CausalLanguageModelling, "causal_language_modelling"),
    "text-to-text": WritingReader("text_to_text"),
    "translation": WritingReader("translation"),
    "summarization": WritingReader("summarization"),
    "token-classification": TokenReader(),
    "question-answering": AnswerReader(),
}

LANGUAGE = ("masked-language-modelling", "causal-language-modelling")  # which share the words of packing

__all__ = ["LANGUAGE", "READERS", "WRITTEN", "Cutter", "Reader"]
