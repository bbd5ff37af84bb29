"""The embedded worlds: which function says what is in their scenes. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.data.objects.facts import VERSION as OBJECTS
from benchmarks.data.objects.scenes import scene_parameters as objects
from benchmarks.data.rooms.facts import VERSION as ROOMS

from .scenes import Scenes
from .scenes import scene_parameters as rooms

# (split, scene numbers) -> their parameters.
WORLDS: Mapping[str, Callable[[str, Sequence[int]], Scenes]] = {"rooms": rooms, "objects": objects}
VERSIONS: Mapping[str, str] = {"rooms": ROOMS, "objects": OBJECTS}
