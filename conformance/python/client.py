"""Uses PyPI's etcd3 against setpoint under etcd's name, and against a real etcd if there is one, and compares."""

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import etcd3

PATIENCE = 60


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(program, directory):
    port = free()
    url = f"http://127.0.0.1:{port}"
    log = open(os.path.join(directory, "log"), "wb")
    process = subprocess.Popen(
        [program, "--data-dir", os.path.join(directory, "data"), "--listen-client-urls", url,
         "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:0", "--unsafe-no-fsync"],
        stderr=log)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(url + "/health", timeout=1).status == 200:
                return process, port
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit(f"{program} is not healthy")


def keys(client, say):
    say("put", client.put("k/a", "1").header.revision)
    for i in range(10):
        client.put(f"k/{i}", str(i))
    value, meta = client.get("k/a")
    say("get", value, meta.version, meta.create_revision)
    say("prefix", [m.key for _, m in client.get_prefix("k/", sort_order="descend", sort_target="value")])
    say("replace", client.replace("k/a", "1", "2"), client.replace("k/a", "1", "3"))
    say("create", client.put_if_not_exists("k/new", "x"), client.put_if_not_exists("k/new", "y"))
    t = client.transactions
    ok, answers = client.transaction(
        compare=[t.value("k/a") == "2", t.version("k/none") == 0],
        success=[t.put("k/txn", "1"), t.get("k/txn"), t.delete("k/0")],
        failure=[t.get("k/a")])
    say("txn", ok, len(answers), answers[1][0][0])
    say("delete", client.delete("k/a"), client.delete("k/a"), client.delete_prefix("k/").deleted)


def watching(client, say):
    seen = queue.Queue()
    watch_id = client.add_watch_callback("w/", lambda r: [seen.put(e) for e in r.events], range_end="w0",
                                         start_revision=client.put("before", "x").header.revision)
    client.put("w/1", "a")
    client.put("w/1", "b")
    client.delete("w/1")
    events = [seen.get(timeout=PATIENCE) for _ in range(3)]
    say("watch", [(type(e).__name__, e.key, e.value) for e in events])
    client.cancel_watch(watch_id)


def leases(client, say):
    lease = client.lease(100, lease_id=4711)
    client.put("leased", "x", lease=lease)
    say("lease", lease.granted_ttl, lease.keys, [r.TTL for r in lease.refresh()])
    lease.revoke()
    say("revoked", client.get("leased")[0])


def contended(client, port, say):
    """Ten threads count under a lock made of transactions; none may be inside with another.

    The package's own Lock does not work with any tenacity of this decade.
    """
    inside, most, count, failed = [0], [0], [0], []

    def work():
        try:
            with etcd3.client(port=port, timeout=PATIENCE) as own:
                lease = own.lease(30)
                for _ in range(3):
                    while not own.put_if_not_exists("lock", "mine", lease=lease):
                        time.sleep(0.005)
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    count[0] += 1
                    time.sleep(0.002)
                    inside[0] -= 1
                    own.delete("lock")
                lease.revoke()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    say("locks", count[0], most[0], failed)


def maintenance(client, say):
    status = client.status()
    say("status", status.version, status.leader is not None)
    say("members", [(m.name, len(list(m.client_urls))) for m in client.members])
    say("alarms", len(list(client.list_alarms())))
    say("compact", client.compact(int(client.put("c", "1").header.revision)))
    try:
        client.get("c", **{"serializable": True})
        list(client.watch_response("c", start_revision=1)[0])
        say("compacted", "nothing was said")
    except Exception as error:  # the package wraps what it was told
        say("compacted", type(error).__name__)


def debians(port, say):
    """etcdctl 3.4 as Debian ships it, if it is installed."""
    found = shutil.which("etcdctl")
    version = subprocess.run([found, "version"], capture_output=True, text=True).stdout if found else ""
    if "etcdctl version: 3.4" not in version:
        return False
    env = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"127.0.0.1:{port}"}
    for args in (["put", "d", "1"], ["get", "d"], ["endpoint", "health"], ["lock", "d", "echo", "in"], ["del", "d"]):
        done = subprocess.run([found, *args], capture_output=True, text=True, env=env, timeout=PATIENCE)
        text = re.sub(r"127\.0\.0\.1:\d+|[0-9.]+[mµ]?s\b", "_", done.stdout + done.stderr)
        say("etcdctl 3.4", args, done.returncode, text)
    return True


def tell(program):
    said = []
    with tempfile.TemporaryDirectory() as directory:
        process, port = start(program, directory)
        try:
            def say(*words):
                said.append(" ".join(map(str, words)))
            with etcd3.client(port=port, timeout=PATIENCE) as client:
                for part in (keys, watching, leases):
                    part(client, say)
                contended(client, port, say)
                maintenance(client, say)
            if not debians(port, say):
                print("Debian's etcdctl 3.4 is not installed: that part is left out")
        finally:
            process.send_signal(signal.SIGTERM)
            said.append(f"ended {process.wait(PATIENCE)}")
    return said


def main():
    # The package's watch thread ends with a traceback when its client is closed; our own threads keep their errors.
    threading.excepthook = lambda _: None
    setpoint, real = sys.argv[1:]
    with tempfile.TemporaryDirectory() as links:
        ours = os.path.join(links, "etcd")
        os.symlink(setpoint, ours)
        got = tell(ours)
    if not os.path.exists(real):
        print("\n".join(got))
        print("no real etcd in conformance/bin: nothing to compare with (conformance/etcdctl builds one)")
        return
    want = tell(os.path.abspath(real))
    for a, b in zip(got, want):
        if a != b:
            print(f"setpoint: {a}\netcd:     {b}")
    if got != want:
        sys.exit(1)
    print(f"etcd3 (PyPI): same, {len(got)} lines")


main()
