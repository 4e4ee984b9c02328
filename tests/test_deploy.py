"""What operators use: image, compose, systemd, Kubernetes, nginx, and the client of examples/."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from harness.archives import pack
from harness.java import java_home
from harness.processes import free_ports, is_free, kill, wait_gone
from harness.prometheus import program
from harness.settings import ROOT, Ports, on_ports
from harness.wait import until

DEPLOY = ROOT / "deploy"
CLIENT = ROOT / "examples" / "client.py"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
NGINX = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
KUBERNETES_VERSION = "1.30.0"


def read_yaml(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def properties(text: str) -> dict[str, str]:
    """As Java reads them: of two equal keys the last one wins."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


SHIPPED = (ROOT / "config.properties").read_text(encoding="utf-8")
IN_CONTAINER = SHIPPED + (DEPLOY / "container.properties").read_text(encoding="utf-8")


def manifests():
    """All objects of deploy/kubernetes, by their kind and name."""
    files = [
        KUBERNETES / name for name in read_yaml(KUBERNETES / "kustomization.yaml")["resources"]
    ]
    objects = [each for file in files for each in yaml.safe_load_all(file.read_text("utf-8"))]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.fixture
def run():
    """Runs a program that may be missing; fails with what it says."""

    def run(*command, **options):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is missing")
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=60, check=False, **options
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


# --- the image ---


def test_hadolint_accepts_the_dockerfile(run):
    """Its instructions parse, and ShellCheck has nothing against its commands."""
    beside = Path(sys.executable).with_name("hadolint")
    run(beside if beside.exists() else "hadolint", DEPLOY / "Dockerfile")


def test_the_image_gets_files_that_are_there_and_sent():
    """Each file that COPY names exists, and the ignore file lets it through."""
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sources = {source for line in copied for source in line.split()}

    assert all((ROOT / source).is_file() for source in sources)
    assert {source.split("/")[0] for source in sources} <= {line.lstrip("!") for line in ignored}


def test_debian_has_the_packages_of_the_image(run):
    """Each package that apt-get installs has a candidate."""
    names = re.search(r"--no-install-recommends (.+) \\$", DOCKERFILE, re.MULTILINE)[1].split()
    if "VERSION_CODENAME=bookworm" not in Path("/etc/os-release").read_text(encoding="utf-8"):
        pytest.skip("the image is of Debian bookworm, and this machine is not")

    said = run("apt-cache", "policy", *names)

    assert len(re.findall(r"^  Candidate: \d", said, re.MULTILINE)) == len(names), said


def test_ports_are_the_same_everywhere():
    """The image, compose, Kubernetes and nginx use the ports of config.properties."""
    settings = properties(IN_CONTAINER)
    rest, metrics = (
        settings[f"{name}_address"].rpartition(":")[2] for name in ("inference", "metrics")
    )
    served = {int(rest), int(settings["grpc_inference_port"]), int(metrics)}
    clients = served - {int(metrics)}
    compose = read_yaml(DEPLOY / "compose.yaml")["services"]["torchserve"]["ports"]
    (container,) = manifests()["Deployment", "torchserve"]["spec"]["template"]["spec"]["containers"]
    service = manifests()["Service", "torchserve"]["spec"]["ports"]

    assert {int(port) for port in re.search("EXPOSE (.+)", DOCKERFILE)[1].split()} == served
    assert {int(port.split(":")[-1]) for port in compose} == clients
    assert all(port.startswith("127.0.0.1:") for port in compose)
    assert {port["containerPort"] for port in container["ports"]} == served
    assert {port["port"] for port in service} == clients
    assert {int(port) for port in re.findall(r"server 127.0.0.1:(\d+);", NGINX)} == clients


def test_nothing_outside_reaches_the_management_api():
    """In a container its addresses stay on loopback, and it registers nothing."""
    settings = properties(IN_CONTAINER)

    assert settings["management_address"].startswith("http://127.0.0.1:")
    assert settings["grpc_management_address"] == "127.0.0.1"
    assert settings["enable_model_api"] == "false"


# --- compose ---


def test_what_compose_mounts_is_there_and_found():
    """Each mounted file exists, and Grafana's files name the paths that others are mounted to."""
    services = read_yaml(DEPLOY / "compose.yaml")["services"]
    mounts = [
        (DEPLOY / source, target)
        for service in services.values()
        for source, target in (mount.split(":")[:2] for mount in service["volumes"])
        if source.startswith(".")
    ]
    targets = {target for _, target in mounts}
    (source,) = read_yaml(DEPLOY / "grafana" / "datasource.yaml")["datasources"]
    (provider,) = read_yaml(DEPLOY / "grafana" / "dashboards.yaml")["providers"]

    assert all(path.exists() for path, _ in mounts)
    assert any(Path(target).parent == Path(provider["options"]["path"]) for target in targets)
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].split(':')[-1]}"
    assert source["isDefault"]
    assert properties(IN_CONTAINER)["model_store"] in targets


def test_compose_scrapes_what_the_dashboards_scrape(run, tmp_path):
    """Its Prometheus differs in the target only, has the alerts, and promtool accepts it."""
    ours = read_yaml(DEPLOY / "prometheus.yml")
    usual = read_yaml(ROOT / "dashboards" / "prometheus.yml")
    for name in ("prometheus.yml", "alerts.yml"):
        there = DEPLOY if (DEPLOY / name).exists() else ROOT / "dashboards"
        shutil.copy(there / name, tmp_path)
    (target,) = ours["scrape_configs"][0].pop("static_configs")[0]["targets"]
    usual["scrape_configs"][0].pop("static_configs")
    usual["scrape_configs"][0].pop("metric_relabel_configs")  # for Ray Serve

    assert ours == usual
    assert target == f"torchserve:{properties(IN_CONTAINER)['metrics_address'].rpartition(':')[2]}"
    run(program("promtool") or "promtool", "check", "config", tmp_path / "prometheus.yml")


# --- systemd ---


def test_systemd_accepts_the_unit(run, tmp_path):
    """`systemd-analyze verify` says nothing, and `security` calls the unit's exposure OK."""
    unit = tmp_path / "torchserve.service"
    text = (DEPLOY / "torchserve.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/torchserve/bin/torchserve", "/bin/true"), encoding="utf-8")

    said = run("systemd-analyze", "verify", "--man=no", unit)
    assert unit.name not in said

    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    assert "OK" in said.splitlines()[-1]


# --- Kubernetes ---


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("key", list(manifests()), ids="/".join)
def test_manifests_fit_the_schema_of_kubernetes(key):
    """No field is unknown, missing or of a wrong type."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")

    kubernetes_validate.validate(manifests()[key], KUBERNETES_VERSION, strict=True)


def test_kustomize_builds_the_manifests(run):
    """The image's name is replaced, and all objects are there."""
    built = list(yaml.safe_load_all(run("kubectl", "kustomize", KUBERNETES)))
    (deployment,) = [each for each in built if each["kind"] == "Deployment"]

    assert len(built) == len(manifests())
    assert "registry" in deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_probes_ask_what_the_image_has():
    """The file is copied to the path that is run, and the ports have names of the container's."""
    pod = manifests()["Deployment", "torchserve"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = {port["name"] for port in container["ports"]}
    check = container["readinessProbe"]["exec"]["command"]
    policy = manifests()["NetworkPolicy", "torchserve"]["spec"]["ingress"]

    assert json.dumps(check) in DOCKERFILE
    assert re.search(
        rf"^COPY .*deploy/{Path(check[-1]).name} .*{Path(check[-1]).parent}",
        DOCKERFILE,
        re.MULTILINE,
    )
    assert container["startupProbe"]["exec"]["command"] == check
    assert container["livenessProbe"]["httpGet"] == {"path": "/ping", "port": "http"}
    assert {port["port"] for rule in policy for port in rule["ports"]} == names
    assert str(pod["securityContext"]["runAsUser"]) in DOCKERFILE
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["models"] == properties(IN_CONTAINER)["model_store"]
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}


def test_selectors_find_the_pods():
    """Services, budget and policy select by labels that the pods have."""
    objects = manifests()
    labels = objects["Deployment", "torchserve"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        spec.get("selector", spec.get("podSelector"))
        for (kind, _), spec in ((key, each["spec"]) for key, each in objects.items())
        if kind != "HorizontalPodAutoscaler"
    ]

    assert [each.get("matchLabels", each) for each in selectors] == [labels] * len(selectors)


def test_the_autoscaler_asks_for_a_metric_that_there_is():
    """The adapter offers its metric, made of one that metrics.yaml declares."""
    (metric,) = manifests()["HorizontalPodAutoscaler", "torchserve"]["spec"]["metrics"]
    (rule,) = read_yaml(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
    declared = read_yaml(ROOT / "metrics.yaml")["ts_metrics"]["counter"]

    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    assert rule["seriesQuery"].split("{")[0] in {each["name"] for each in declared}


# --- a real server ---


def python(*command, cwd=None, **environment):
    """Run one of the repository's Python programs, with no proxy before this machine."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass
class Served:
    """A TorchServe that deploy/entrypoint.py has started with keys, and one model."""

    folder: Path
    ports: Ports
    entrypoint: subprocess.Popen[bytes]

    def header(self, kind: str) -> dict[str, str]:
        """With one of the keys that TorchServe has written."""
        keys = json.loads((self.folder / "key_file.json").read_text(encoding="utf-8"))
        return {"Authorization": f"Bearer {keys[kind]['key']}"}

    def check(self) -> subprocess.CompletedProcess[str]:
        """The health check, where TorchServe has started."""
        address = f"http://127.0.0.1:{self.ports.management}"
        return python(DEPLOY / "healthcheck.py", "--management", address, cwd=self.folder)

    @property
    def console(self) -> str:
        """What a container would log."""
        return (self.folder / "console").read_text(encoding="utf-8")


def on(ports: Ports, text: str) -> str:
    """The text with these ports, on loopback only."""
    return on_ports(text, ports).replace("0.0.0.0", "127.0.0.1")


@pytest.fixture(scope="module")
def served(java, tmp_path_factory):
    """As in the image, but for the ports and the paths."""
    settings, folder, store = (tmp_path_factory.mktemp(name) for name in ("etc", "cwd", "models"))
    ports = free_ports()
    text = on(ports, IN_CONTAINER).replace("/models", str(store))
    text = text.replace("/etc/torchserve", str(settings))
    (settings / "config.properties").write_text(text, encoding="utf-8")
    for name in ("log4j2.xml", "metrics.yaml"):
        shutil.copy(ROOT / name, settings)
    pack("echo", "echo", {"minWorkers": 1, "maxWorkers": 1, "batchSize": 4}, store)
    entrypoint = settings / "entrypoint.py"
    text = (DEPLOY / "entrypoint.py").read_text(encoding="utf-8")
    entrypoint.write_text(text.replace("/etc/torchserve", str(settings)), encoding="utf-8")
    short = tempfile.mkdtemp(prefix="ts-")  # sockets lie here, and their paths must be short
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    environment.pop("PYTHONPATH", None)
    environment |= {"JAVA_HOME": str(java_home()), "TEMP": short, "TMPDIR": short}
    environment |= {"CONSOLE_LOG_LEVEL": "info"}
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            [sys.executable, entrypoint],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    one = Served(folder, ports, process)
    started = []
    try:
        until(lambda: one.check().returncode == 0, "a healthy server", 60)
        started = psutil.Process(process.pid).children(recursive=True)
        yield one
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        kill(each.pid for each in started)
        shutil.rmtree(short)


@pytest.mark.server
def test_the_health_check_works_with_keys_and_when_one_has_ended(served):
    """TorchServe refuses the key in the file; the check has it make another one, and passes."""
    file = served.folder / "key_file.json"
    keys = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**keys, "management": {"key": "ended"}}), encoding="utf-8")

    done = served.check()

    assert done.returncode == 0, done.stderr
    now = json.loads(file.read_text(encoding="utf-8"))
    assert now["management"]["key"] not in {"ended", keys["management"]["key"]}
    assert now["inference"]["key"] == keys["inference"]["key"]


@pytest.mark.server
def test_the_container_logs_what_workers_print(served):
    """CONSOLE_LOG_LEVEL brings the workers' log to the output of the container."""
    until(lambda: "MODEL_LOG" in served.console, "a line of the worker's")


def test_the_health_check_fails_without_a_server(tmp_path):
    """It exits with 1 and says whom it could not ask."""
    address = f"http://127.0.0.1:{free_ports().management}"

    done = python(DEPLOY / "healthcheck.py", "--management", address, cwd=tmp_path)

    assert (done.returncode, address in done.stderr) == (1, True)


# --- nginx, and the client through it ---


@pytest.fixture(scope="module")
def nginx(served, tmp_path_factory):
    """deploy/nginx.conf with a certificate of its own, in front of the server; gives its port."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is missing")
    folder = tmp_path_factory.mktemp("nginx")
    port = free_ports().inference
    request = (
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=models -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", "privkey.pem", "-out", "fullchain.pem"]
    subprocess.run(
        ["openssl", *request.split(), *files], cwd=folder, capture_output=True, check=True
    )
    text = on(served.ports, NGINX).replace("/etc/ssl/torchserve", str(folder))
    text = re.sub(r"listen 443", f"listen 127.0.0.1:{port}", text)
    text = re.sub(r".*listen \[::\]:443.*\n", "", text)
    (folder / "torchserve.conf").write_text(text, encoding="utf-8")
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    inside = [f"{kind}_temp_path {folder}/{kind};" for kind in kinds]
    inside += ["access_log off;", f"include {folder}/torchserve.conf;"]
    lines = ["daemon off;", f"pid {folder}/pid;", "error_log stderr;", "events {}"]
    lines += ["user root;"] if os.geteuid() == 0 else []
    main = folder / "nginx.conf"
    main.write_text("\n".join([*lines, "http {", *inside, "}"]), encoding="utf-8")
    command = [program, "-c", str(main), "-e", "stderr"]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: not is_free(port), "nginx", 30)
        yield port, folder / "fullchain.pem"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.server
def test_nginx_leads_to_inference_only(served, nginx):
    """Management and metrics are 404, and what is too long for TorchServe ends at nginx."""
    port, certificate = nginx
    longest = int(properties(SHIPPED)["max_request_size"])

    def status(path, **options):
        with requests.Session() as session:
            session.trust_env = False
            url = f"https://127.0.0.1:{port}{path}"
            return session.request(url=url, verify=certificate, timeout=60, **options).status_code

    for path in ("/", "/metrics", "/models", "/models/echo", "/token?type=inference"):
        assert status(path, method="GET", headers=served.header("API")) == 404
    assert status("/ping", method="GET", headers=served.header("inference")) == 200
    assert status("/predictions/echo", method="POST", data=b"x" * (longest + 1)) == 413


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """What docs/deploy.md's commands make, as they are printed."""
    pytest.importorskip("grpc_tools")
    folder = tmp_path_factory.mktemp("stubs")
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    block = re.search(
        r"(?:^    .+\n)+", page[page.index("    pip install grpcio-tools") :], re.MULTILINE
    )[0]
    script = "\n".join(line[4:] for line in block.splitlines() if "pip install" not in line)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env={**os.environ, "PATH": path}, check=True
    )
    return folder


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_client_gets_an_answer(served, protocol, tls, tmp_path, request):
    """By REST and by gRPC, straight from TorchServe and through nginx, with the key of the file."""
    body = tmp_path / "body.json"
    body.write_text('{"number": 5}', encoding="utf-8")
    port = served.ports.inference if protocol == "rest" else served.ports.grpc_inference
    flags = ["--key-file", served.folder / "key_file.json", "--content-type", "application/json"]
    if tls:
        port, certificate = request.getfixturevalue("nginx")
        flags += ["--ca-file", certificate]
    address = f"127.0.0.1:{port}"
    if protocol == "rest":
        flags += ["--url", f"{'https' if tls else 'http'}://{address}"]
    else:
        flags += ["--grpc", address]
    path = str(request.getfixturevalue("stubs")) if protocol == "grpc" else ""

    done = python(CLIENT, "echo", body, *flags, PYTHONPATH=path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"] == 16


@pytest.mark.server
def test_the_client_says_what_the_server_said(served, tmp_path):
    """Without a key TorchServe refuses, and the client ends with 1 and the reason."""
    body = tmp_path / "body.json"
    body.write_text('{"number": 5}', encoding="utf-8")

    done = python(CLIENT, "echo", body, "--url", f"http://127.0.0.1:{served.ports.inference}")

    assert (done.returncode, "InvalidKeyException" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("statuses", "calls", "code"), [([503, 502, 200], 3, 0), ([503] * 9, 4, 1), ([500, 200], 1, 1)]
)
def test_the_client_asks_again_what_was_not_answered(statuses, calls, code, tmp_path):
    """After 502 and 503, up to four times, and each time the deadline is nearer."""
    left_ms = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            left_ms.append(float(self.headers["X-Envoy-Expected-Rq-Timeout-Ms"]))
            self.send_response(statuses[len(left_ms) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    (tmp_path / "body").touch()
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = python(CLIENT, "cat", tmp_path / "body", "--url", url, "--deadline-ms", "30000")
        server.shutdown()
        thread.join()

    assert (done.returncode, len(left_ms)) == (code, calls), done.stderr
    assert left_ms == sorted(left_ms, reverse=True)
    assert all(0 < left <= 30_000 for left in left_ms)


@pytest.mark.server
def test_a_signal_ends_torchserve_in_order(served):
    """The last test of this server: frontend and workers end, the key file too, with status 0."""
    processes = psutil.Process(served.entrypoint.pid).children(recursive=True)
    assert len(processes) >= 3  # launcher, frontend, worker

    served.entrypoint.send_signal(signal.SIGTERM)

    assert served.entrypoint.wait(60) == 0
    for process in processes:
        wait_gone(process.pid)
    assert not (served.folder / "key_file.json").exists()


def test_a_container_fails_when_torchserve_does(tmp_path):
    """The launcher's own status is 0; the container's is 1, so it is started again."""
    (tmp_path / "config.properties").write_text(f"model_store={tmp_path}/none\n", encoding="utf-8")
    (tmp_path / "log4j2.xml").touch()
    entrypoint = tmp_path / "entrypoint.py"
    text = (DEPLOY / "entrypoint.py").read_text(encoding="utf-8")
    entrypoint.write_text(text.replace("/etc/torchserve", str(tmp_path)), encoding="utf-8")

    done = python(entrypoint, cwd=tmp_path, TMPDIR=str(tmp_path))

    assert (done.returncode, "directory not found" in done.stdout) == (1, True)


# --- the audit ---

KNOWN = {"id": "CVE-1", "fix_versions": ["2"], "description": ""}
GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "1", "vulns": [KNOWN]}
SKIPPED = {"name": "skipped", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("pins", "code"),
    [([GOOD], 0), ([GOOD, BAD, SKIPPED], 1), ([GOOD, SKIPPED], 3), (None, 3)],
    ids=["nothing known", "an advisory", "not looked up", "no network"],
)
def test_the_audit_does_not_call_good_what_nobody_looked_up(pins, code, tmp_path):
    """Its status tells advisories from pins that PyPI does not know, and from a failure."""
    report = None if pins is None else json.dumps({"dependencies": pins})
    (tmp_path / "pip_audit.py").write_text(
        f"import sys\nreport = {report!r}\n"
        "report and open(sys.argv[-1], 'w').write(report)\n"
        "sys.exit('no network' if report is None else 0)\n",
        encoding="utf-8",
    )

    script = ROOT / "scripts" / "_audit.py"
    done = python(script, ROOT / "constraints.txt", PYTHONPATH=str(tmp_path))

    assert done.returncode == code, done.stderr
    assert ("CVE-1" in done.stdout) == (code == 1)
    assert ("skipped" in done.stdout) == (pins is not None and SKIPPED in pins)
