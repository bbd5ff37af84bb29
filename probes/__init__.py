"""What we ask a generator, and how: intrinsics as data, methods as modules with `fit`."""
