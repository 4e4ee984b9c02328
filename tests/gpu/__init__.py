"""What only a GPU shows: right answers under delays, overlap, memory, faults, speed.

    scripts/test-gpu     all of it on one GPU, with a report
    python -m tests.gpu  the same, with a Python that has what it needs; nothing is installed
    scripts/test         these tests too, skipped where there is no GPU

The parts that need none (the stand-in, reports, figures) are tested in tests/test_gpu_*.py.
"""
