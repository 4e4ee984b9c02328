"""The tuner: measured, modelled, searched, verified; only bench.py and copies.py run handlers."""
