"""How good the plans of `micro_batch_size: auto` are, on emulated stages.

    python -m benchmarks.plans --cases 20 --seed 1

Each case draws three stages at random (what a call costs, what a row adds, lanes). Calls wait, as
for a device or a native library, and release the interpreter. After a warm-up, batches as the
planner plans them, whole batches, quarters, and the best sizes that trying everything on the true
costs gives are run in turns through the real pipeline, and their medians compared.
"""
