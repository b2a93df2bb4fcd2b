"""Records the migration stream of a QEMU guest by playing its destination; README.md in this folder says how."""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_SECONDS = 60


def main():
    out, run_seconds, hold_seconds, capabilities = sys.argv[1:5]
    capabilities = [c for c in capabilities.split(",") if c]
    arguments = sys.argv[6:]
    with tempfile.TemporaryDirectory() as folder:
        monitor, migration = os.path.join(folder, "qmp"), os.path.join(folder, "migration")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(migration)
        listener.listen(1)
        qemu = subprocess.Popen(arguments + ["-qmp", f"unix:{monitor},server=on,wait=off"])
        try:
            record(Qmp(monitor), listener, migration, out, float(run_seconds), float(hold_seconds), capabilities)
            qemu.wait(5)
        finally:
            if qemu.poll() is None:
                qemu.kill()


def record(qmp, listener, migration, out, run_seconds, hold_seconds, capabilities):
    if capabilities:
        states = [{"capability": c, "state": True} for c in capabilities]
        qmp.run("migrate-set-capabilities", capabilities=states)
    time.sleep(run_seconds)
    stream, source, ended = bytearray(), [], threading.Event()

    def receive():
        connection, _ = listener.accept()
        source.append(connection)
        while piece := connection.recv(65536):
            stream.extend(piece)
        ended.set()

    threading.Thread(target=receive, daemon=True).start()
    qmp.run("migrate", uri="unix:" + migration)
    if "switchover-ack" in capabilities:
        time.sleep(hold_seconds)
        source[0].sendall(struct.pack(">HH", 7, 0))
    begun = time.monotonic()
    while (status := qmp.run("query-migrate").get("status")) not in ("completed", "failed"):
        waited = time.monotonic() - begun
        if waited > PATIENCE_SECONDS:
            raise SystemExit(f"the migration hangs in status {status}")
        if "return-path" in capabilities and (status == "device" or waited > 4):
            # The source waits for SHUT 0 behind its last byte.
            try:
                source[0].sendall(struct.pack(">HHI", 1, 4, 0))
                time.sleep(0.3)
            except OSError:
                pass
        time.sleep(0.05)
    ended.wait(5)
    print(out, status, len(stream))
    with open(out, "wb") as file:
        file.write(stream)
    qmp.run("quit")


class Qmp:
    def __init__(self, path):
        for _ in range(100):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.1)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise SystemExit(f"{command}: {answer['error']}")


main()
