"""Maps of anyone's pictures, drawn by a model with a trained adapter.

from benchmarks.predict import predict_pictures
outcome = predict_pictures(["photos"], "results/rooms/adapters/HASH", "maps")
outcome.written, outcome.skipped, outcome.failed
"""

from .run import Outcome as Outcome
from .run import predict_pictures as predict_pictures
from .settings import Settings as Settings
from .writing import Shown as Shown
