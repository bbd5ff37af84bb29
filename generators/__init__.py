"""Pretrained image models as they are, behind one contract."""

from .base import Generator as Generator
from .base import GeneratorSpec as GeneratorSpec
from .base import Sample as Sample
from .errors import UserError as UserError
from .registry import load as load
from .registry import spec as spec
from .registry import specs as specs
