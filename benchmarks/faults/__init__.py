"""The same load with bad requests on a real TorchServe, for three handlers.

__main__.py    the command
rounds.py      one handler under load
summary.py     what became of the requests, as figures and as a table
"""
