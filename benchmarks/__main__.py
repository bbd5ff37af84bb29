"""`python -m benchmarks` is `intrinsic-bench`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="intrinsic-bench")
