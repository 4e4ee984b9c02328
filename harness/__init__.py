"""What tests share, and benchmarks too; it imports neither.

A real TorchServe
    settings.py     the server's own files: config.properties, log4j2.xml
    java.py         a Java that TorchServe can run on
    torchserve.py   TorchServe: starts and stops one server in a private folder
    processes.py    process groups, ports, and what is left of them
    printed.py      a page's commands, run as they are printed
    prometheus.py   Prometheus: one real Prometheus that scrapes a server
    fixtures.py     the pytest plugin: servers, their logs, a check that no lane is left behind

Models
    handlers/       handlers of ours, and as users bring them; stand_ins/ has what these import
    archives.py     packs a handler as a user of torch-model-archiver would
    model.py        Model: one handler, packed and registered while it is used
    kinds.py        forty kinds of handlers, what to ask each, and what it must answer
    examples.py     the examples, built by their own build.py

Clients
    rest.py         RestClient
    grpc_client.py  GrpcClient
    crowd.py        many clients at once, each answer looked at
    leavers.py      clients that go away in mid-request
    images.py       JPEGs that carry a number, some of them bad
    verdicts.py     what became of each image that was sent
    image_load.py   many such images, every answer judged
    load.py         load that is measured: wrk (wrk.lua), or clients.py where it is missing

A worker without the frontend
    wire.py         the protocol between the two: requests out, answers in
    worker.py       Worker: TorchServe's worker process, driven instead of Java
    service.py      TorchServe's Service around a handler in this process
    alone.py        what a handler answers to each request alone, by such a Service

Models of machines
    simulated.py    a machine with known costs, in simulated time
    tuned.py        a bench for the tuner on such a machine

command.py          what commands that measure share: machine, versions, SIGTERM
wait.py             bounded waiting for what another process does
"""
