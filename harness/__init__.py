"""A real TorchServe to test against, and what talks to it.

wait.py         bounded waiting for what another process does
java.py         a Java that TorchServe can run on
settings.py     the server's own files: config.properties, log4j2.xml
processes.py    process groups, ports, and what is left of them
torchserve.py   TorchServe: starts and stops one server in a private folder
model.py        Model: one handler, packed and registered while it is used
archives.py     packs a handler as a user of torch-model-archiver would
rest.py         RestClient
grpc_client.py  GrpcClient
crowd.py        many clients at once
images.py       JPEGs that carry a number, some of them bad
verdicts.py     what became of each image that was sent
load.py         many such images, every answer judged
leavers.py      clients that go away in mid-request
worker.py       Worker: TorchServe's worker process, driven by this test instead of Java
prometheus.py   Prometheus: one real Prometheus that scrapes a server
fixtures.py     the pytest plugin
"""
