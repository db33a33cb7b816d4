"""Sends the same requests to setpoint and to etcd, and prints what they answer differently.

Ids, terms, sizes and lease ids that a server chose are masked. Streams are compared line by line, as far as both answer
within a second.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

import oddities
import websockets

CHOSEN = {"cluster_id", "member_id", "raft_term", "dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex", "leader",
          "dbSizeQuota", "hash", "token"}
# Places of values: (path, body); a body that is not a string is sent as JSON.
REQUESTS = [
    ("/v3/kv/range", {"key": "YQ=="}),
    ("/v3/kv/put", {"key": "YQ==", "value": "MQ=="}),
    ("/v3/kv/put", {"key": "YQ==", "value": "Mg==", "prev_kv": True}),
    ("/v3/kv/put", {"key": "Yg==", "value": "PGE+Jg==", "prevKv": True}),
    ("/v3/kv/range", {"key": "YQ==", "range_end": "eg==", "sort_order": "DESCEND", "sortTarget": "KEY", "limit": "1"}),
    ("/v3/kv/range", {"key": "YQ==", "range_end": "eg==", "keys_only": True, "unknown": {"x": [1]}}),
    ("/v3/kv/range", {"key": "YQ==", "range_end": "eg==", "count_only": True}),
    ("/v3/kv/range", {"key": "eg==", "range_end": "YQ=="}),
    ("/v3/kv/range", {"key": "YQ==", "revision": "99"}),
    ("/v3/kv/range", {"key": "YQ==", "sort_order": 7}),
    ("/v3/kv/range", {}),
    ("/v3/kv/range", ""),
    ("/v3/kv/range", "["),
    ("/v3/kv/range", "{\"key\":"),
    ("/v3/kv/range", {"key": "!"}),
    ("/v3/kv/range", {"key": "YQ==", "limit": "x"}),
    ("/v3/kv/txn", {"compare": [{"target": "MOD", "key": "YQ==", "mod_revision": "3", "result": "EQUAL"}],
                    "success": [{"request_range": {"key": "YQ=="}}, {"requestPut": {"key": "Yw==", "value": "MQ=="}}],
                    "failure": [{"request_delete_range": {"key": "YQ=="}}]}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": "YQ=="}}, {"request_put": {"key": "YQ=="}}]}),
    ("/v3/kv/txn", {"success": [{}]}),
    ("/v3/kv/txn", {}),
    ("/v3/kv/deleterange", {"key": "Yw==", "prev_kv": True}),
    ("/v3/kv/deleterange", {"key": "bm8="}),
    ("/v3/kv/compaction", {"revision": "3"}),
    ("/v3/kv/compaction", {"revision": "3"}),
    ("/v3/kv/compaction", {"revision": "1000"}),
    ("/v3/kv/range", {"key": "YQ==", "revision": "2"}),
    ("/v3/lease/grant", {"TTL": "100", "ID": "7"}),
    ("/v3/lease/grant", {"TTL": "100", "ID": "7"}),
    ("/v3/lease/grant", {"TTL": 100, "ID": -7}),
    ("/v3/lease/grant", {"TTL": "9000000001"}),
    ("/v3/kv/put", {"key": "bA==", "lease": "7"}),
    ("/v3/kv/put", {"key": "bA==", "lease": "8"}),
    ("/v3/kv/put", {"key": "bA==", "lease": "-9223372036854775808"}),
    ("/v3/lease/timetolive", {"ID": 7, "keys": True}),
    ("/v3/kv/lease/timetolive", {"ID": 8}),
    ("/v3/lease/leases", {}),
    ("/v3/kv/lease/leases", {}),
    ("/v3/lease/keepalive", "{\"ID\":7} {\"ID\":8}"),
    ("/v3/kv/lease/revoke", {"ID": "7"}),
    ("/v3/lease/revoke", {"ID": "7"}),
    ("/v3/watch", {"create_request": {"key": "YQ==", "start_revision": "3"}}),
    ("/v3/watch", {"create_request": {"key": "eg==", "range_end": "YQ=="}}),
    ("/v3/watch", {"create_request": {"key": "YQ==", "start_revision": "1"}}),
    ("/v3/watch", "{\"create_request\":{\"key\":\"YQ==\",\"watch_id\":5}} {\"cancel_request\":{\"watch_id\":5}}"),
    ("/v3/cluster/member/promote", {"ID": "1"}),
    ("/v3/maintenance/alarm", {}),
    ("/v3/maintenance/alarm", {"action": "ACTIVATE", "memberID": "1", "alarm": "NOSPACE"}),
    ("/v3/kv/put", {"key": "YQ=="}),
    ("/v3/maintenance/alarm", {"action": "DEACTIVATE", "memberID": "1", "alarm": "NOSPACE"}),
    ("/v3/maintenance/status", {}),
    ("/v3/maintenance/defragment", {}),
    ("/v3/maintenance/transfer-leadership", {"targetID": "1"}),
    ("/v3/auth/status", {}),
    ("/v3/auth/enable", {}),
    ("/v3/auth/user/add", {"name": "ann", "password": "x"}),
    ("/v3/auth/user/add", {"name": "ann", "password": "x"}),
    ("/v3/auth/user/add", {}),
    ("/v3/auth/user/list", {}),
    ("/v3/auth/role/add", {"name": "r"}),
    ("/v3/auth/role/grant", {"name": "r", "perm": {"permType": "READWRITE", "key": "YQ==", "range_end": "Yg=="}}),
    ("/v3/auth/role/get", {"role": "r"}),
    ("/v3/auth/user/grant", {"user": "ann", "role": "r"}),
    ("/v3/auth/user/get", {"name": "ann"}),
    ("/v3/auth/user/revoke", {"name": "ann", "role": "r"}),
    ("/v3/auth/role/delete", {"role": "r"}),
    ("/v3/auth/user/delete", {"name": "ann"}),
    ("/v3/auth/authenticate", {"name": "ann", "password": "x"}),
    ("/v3/election/leader", {"name": "YQ=="}),
    ("/v3/election/proclaim", {}),
    ("/v3/lock/unlock", {"key": "YQ=="}),
    ("/v3beta/kv/range", {"key": "YQ==", "count_only": True}),
    ("/v3/nope", {}),
    ("/v3/", {}),
]
# (method, path) of plain HTTP.
PLAIN = [(method, path) for method in ("GET", "POST", "HEAD", "OPTIONS") for path in (
    "/health", "/health?exclude=NOSPACE", "/health?serializable=true", "/livez", "/livez?verbose",
    "/livez?exclude=serializable_read&verbose", "/livez/serializable_read", "/livez/nope", "/readyz",
    "/readyz?verbose&exclude=nope", "/readyz/data_corruption?verbose", "/readyz/linearizable_read",
    "/readyz/non_learner", "/readyz/", "/version", "/nope", "/debug/pprof/", "/v3/kv/range")]
HEADERS = ("content-type", "access-control-allow-origin", "access-control-allow-methods",
           "access-control-allow-headers", "allow", "grpc-metadata-content-type")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def certificates(folder):
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    for name in ("server", "client"):
        with open(os.path.join(folder, name + ".ext"), "w") as file:
            file.write("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", name + ".key", "-out", name + ".csr")
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", name + ".ext", "-out", name + ".crt")


def start(program, folder, name, tls):
    port = free_port()
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    if os.path.basename(program) == "etcd":
        peer = f"http://127.0.0.1:{free_port()}"
        args = ["--data-dir", os.path.join(folder, name), "--listen-client-urls", url, "--advertise-client-urls", url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"default={peer}", "--log-level", "error"]
        prefix = "--"
    else:
        args = ["server", "--roles", "store", "--data-dir", os.path.join(folder, name),
                "--etcd-listen", f"127.0.0.1:{port}", "--log", "warn"]
        prefix = "--etcd-"
    if tls:
        args += [prefix + "cert-file", os.path.join(folder, "server.crt"),
                 prefix + "key-file", os.path.join(folder, "server.key"),
                 prefix + "trusted-ca-file", os.path.join(folder, "ca.crt"), prefix + "client-cert-auth"]
    process = subprocess.Popen([program, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if curl(folder, url, "GET", "/health", None)[0] == 200:
            return process, url
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"{name} does not become ready")


def curl(folder, url, method, path, body):
    """Status, chosen headers, body."""
    args = ["curl", "-s", "--max-time", "1", "--http1.1", "-D", "-"]
    if url.startswith("https"):
        args += ["--cacert", f"{folder}/ca.crt", "--cert", f"{folder}/client.crt", "--key", f"{folder}/client.key"]
    args += ["-I"] if method == "HEAD" else ["-X", method]
    if body is not None:
        args += ["--data-binary", "@-"]
    given = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    said = subprocess.run(args + [url + path], input=given, capture_output=True).stdout
    head, _, text = said.partition(b"\r\n\r\n")
    lines = head.decode(errors="replace").split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return 0, {}, ""
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    headers = {name.lower(): value for name, value in headers.items() if name.lower() in HEADERS}
    status = int(lines[0].split()[1])
    if status >= 400:
        # Over TLS etcd's errors have it, without TLS they do not.
        headers.pop("grpc-metadata-content-type", None)
    return status, headers, text.decode(errors="replace")


def masked(value, name=""):
    if isinstance(value, dict):
        return {key: masked(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [masked(part) for part in value]
    if name in CHOSEN:
        return "*"
    # Go's protobuf varies the space in its messages from build to build, so that nobody compares them.
    return value.replace("proto:\u00a0", "proto: ") if isinstance(value, str) else value


def read(text):
    lines = []
    for line in text.splitlines():
        try:
            lines.append(masked(json.loads(line)))
        except ValueError:
            lines.append(line)
    # Two JSON objects are the same whatever the order of their members; so are verbose checks.
    return sorted(lines, key=str) if text.startswith("[+]") else lines


def compare(folder, ours, theirs):
    differences = 0
    calls = [("POST", path, body) for path, body in REQUESTS + oddities.REQUESTS]
    calls += [(method, path, None) for method, path in PLAIN]
    for method, path, body in calls:
        answers = []
        for url in (ours, theirs):
            status, headers, text = curl(folder, url, method, path, body)
            answers.append((status, headers, read(text)))
        if answers[0] != answers[1]:
            differences += 1
            print(f"{method} {path} {body}\n  setpoint: {answers[0]}\n  etcd:     {answers[1]}")
    return differences, len(calls)


def names(folder, url):
    text = curl(folder, url, "GET", "/metrics", None)[2]
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def metric_names(folder, ours, theirs):
    """Names of etcd's that we lack must be listed in the reference, and only those."""
    page = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/reference/etcd-metrics.md")).read()
    absent = set(re.findall(r"`([a-z_]+)`", page.split("## Absent")[1]))
    lacking = {name for name in names(folder, theirs) - names(folder, ours)
               if not name.startswith(("go_", "promhttp_"))}
    for name in sorted(lacking - absent):
        print(f"metric {name}: etcd has it, we do not, and the reference does not say why")
    return len(lacking - absent)


def etcdctl(program, folder, url):
    """etcdctl over TLS: it comes in with a certificate, and not without."""
    base = [program, "--endpoints", url, "--cacert", f"{folder}/ca.crt", "--command-timeout", "2s",
            "--dial-timeout", "2s"]
    pair = ["--cert", f"{folder}/client.crt", "--key", f"{folder}/client.key"]
    run = lambda args: subprocess.run(args, capture_output=True, text=True)
    put = run(base + pair + ["put", "tls", "1"])
    got = run(base + pair + ["get", "tls", "--print-value-only"])
    refused = run(base + ["get", "tls"])
    fine = put.stdout == "OK\n" and got.stdout == "1\n" and refused.returncode != 0
    if not fine:
        print(f"etcdctl over TLS to {url}: {put} {got} {refused}")
    return 0 if fine else 1


def main(setpoint, etcd, ctl):
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder)
        for tls in (False, True):
            running = []
            try:
                for name, program in (("setpoint", setpoint), ("etcd", etcd)):
                    running.append(start(program, folder, f"{name}-{tls}", tls))
                ours, theirs = running[0][1], running[1][1]
                differences, count = compare(folder, ours, theirs)
                print(f"{'HTTPS' if tls else 'HTTP'}: {count} requests, {differences} answered differently")
                failed += differences
                if tls:
                    failed += etcdctl(ctl, folder, ours) + etcdctl(ctl, folder, theirs)
                else:
                    failed += metric_names(folder, ours, theirs)
                    different, talks = websockets.compare(ours, theirs, masked)
                    print(f"WebSockets: {talks} talks, {different} went differently")
                    failed += different
            finally:
                for process, _ in running:
                    process.terminate()
                for process, _ in running:
                    process.wait(20)
    sys.exit(1 if failed else 0)


main(*sys.argv[1:])
