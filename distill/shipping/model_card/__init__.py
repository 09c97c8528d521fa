"""README.md: the Hub's model card, a file for each of its parts.

* `writing`: which part comes when
* `front_matter`: what stands above the text, for the Hub: licence, base model, tags, model-index
* `opening`: what the model is, in the first words; Measured
* `usage`: Use; How to reproduce
* `origin`: Data; Licence
* `limits`: Limits
* `formats`: What is in this folder

Every measured figure stands in the table or the model-index, and comes from report.json.
"""

from distill.shipping.model_card.front_matter import model_index
from distill.shipping.model_card.origin import base_model, licence_of
from distill.shipping.model_card.writing import write_card

__all__ = ["base_model", "licence_of", "model_index", "write_card"]
