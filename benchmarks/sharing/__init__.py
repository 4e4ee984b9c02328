"""What `share_model` promises, on a real TorchServe.

    python -m benchmarks.sharing                 all parts, a quarter of an hour
    python -m benchmarks.sharing kill mixed      some

__main__.py    the command
answers.py     answers    many handlers, each answer compared with the one that it gives alone
kill.py        kill       the host killed again and again under load
mixed.py       mixed      requests whose inference raises, hangs, lacks memory, loses the device
memory.py      memory     what members and host hold, with a model of 400 MB
long.py        long       thousands of batches: memory, files
part.py        what a part gives back, and what parts share

The handlers that they serve are in harness/handlers/hosted.
"""
