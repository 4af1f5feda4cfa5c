"""The benchmarks: ``python -m benchmarks.run``. Every figure stands beside a baseline of the same run."""
