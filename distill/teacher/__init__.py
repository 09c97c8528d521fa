"""The teacher answers one question: your signals for this batch? A model, saved signals and an ensemble answer alike.

* `live`: a model that runs, and how a teacher is found
* `saved`: signals for a whole split, in files that are mapped
* `choosing`: which of the two answers
* `ensemble`: several teachers as one, the weighted mean of what they say
* `labelling`: the pass that makes saved signals, on a faster engine where that stays faithful
* `likeliest`, `worth`: of logits over a vocabulary those of the likeliest tokens, and which form of them pays
* `renumbering`: a student of a trimmed vocabulary asks in its teacher's numbers
"""

from distill.teacher.choosing import answering
from distill.teacher.ensemble import Ensemble
from distill.teacher.live import Live, Teacher, find, load
from distill.teacher.saved import Keep, Saved

__all__ = ["Ensemble", "Keep", "Live", "Saved", "Teacher", "answering", "find", "load"]
