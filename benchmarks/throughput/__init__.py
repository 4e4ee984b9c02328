"""Requests per second and latencies on a real TorchServe, beside TorchServe's own handlers.

__main__.py       the command
workload.py       the types of workloads, contenders and targets
workloads.py      the workloads
inputs.py         what clients send
stages/           the three methods of each workload, the same for all contenders
contenders/       the handler files: these methods on different bases
accelerator.py    an emulated accelerator, shared by all processes of the machine
servers.py        one TorchServe for each contender, and a check of their answers
search.py         the search for the best settings of a contender
rounds.py         contenders in turn
memory.py         what a server's workers hold
summary.py        samples as figures, ratios and tables
report.py         the files of a run
"""
