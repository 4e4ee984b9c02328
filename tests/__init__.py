"""The tests; each says in one sentence what it shows.

planning/, pipeline/, hosting/, tracing/, torchserve/, tools/   of the rooms of the package
server/       on a real TorchServe
gpu/          on a GPU, with a command of its own; test_gpu_*.py show without one that it works
recorded/     what TorchServe's frontend has sent to a worker
fakes.py      stand-ins for what TorchServe hands to a handler
odd_values.py  hostile values for tests that draw them
test_*.py     of config/, and of the repository: house rules, docs, quickstart, scripts, dashboards,
              deploy

What the benchmarks need too is in harness/. Tests of the benchmarks are beside them.
"""
