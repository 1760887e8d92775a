#!/usr/bin/env python3
"""Runs the lab in an interactive shell on a pseudoterminal, and presses its keys. Usage: keys.py PATH_OF_LAB"""
import os
import pty
import re
import select
import socket
import sys
import time
import urllib.request

TIMEOUT = 30
ADDRESSES = ["SERVICE_A_ADDR", "SERVICE_B_ADDR", "JAEGER_UI_ADDR", "OTLP_GRPC_ADDR", "OTLP_HTTP_ADDR"]
PROMPT = "PROMPT> "


class Shell:
    def __init__(self, **env):
        pid, self.fd = pty.fork()
        if pid == 0:
            env |= {name: "127.0.0.1:0" for name in ADDRESSES} | {"PS1": PROMPT, "PATH": os.environ["PATH"]}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        self.unread = ""
        self.wait_for(PROMPT)

    def send(self, keys):
        os.write(self.fd, keys.encode())

    def wait_for(self, pattern):
        """Reads up to the end of the pattern, and returns all of it."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(pattern, self.unread)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                sys.exit(f"no {pattern!r} in {self.unread!r}")
            try:
                self.unread += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                sys.exit(f"the shell ended without {pattern!r} in {self.unread!r}")
        read, self.unread = self.unread[: found.end()], self.unread[found.end() :]
        return read


def list_traces(shell):
    """Presses t until the trace of a request has arrived."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        shell.send("t")
        listed = shell.wait_for(r"no traced request in the last five minutes|/trace/\w{32}")
        if "/trace/" in listed:
            return listed
    sys.exit("the trace does not arrive")


def wait_until_refused(host, port):
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), TIMEOUT).close()
        except ConnectionRefusedError:
            return
    sys.exit(f"{host}:{port} still listens")


def main():
    shell = Shell(TERM="xterm")
    shell.send(f"{sys.argv[1]}\n")
    banner = shell.wait_for("ends it all")
    for key in ["a stops or starts A", "b does the same for B", "t lists notable traces", "q or Ctrl-C"]:
        assert key in banner, f"no {key!r} in {banner!r}"

    shell.send("t")
    shell.wait_for("no traced request in the last five minutes")
    urllib.request.urlopen(re.search(r'curl "(http\S+)"', banner)[1]).read()
    assert re.search(r"slowest, \d+ ms, \d+ s ago", list_traces(shell))

    shell.send("\x1a")  # Ctrl-Z
    shell.wait_for("Stopped")
    shell.wait_for(PROMPT)
    shell.send("fg\n")
    shell.wait_for(re.escape(sys.argv[1]))
    list_traces(shell)

    for key, label in ["aA", "bB"]:
        shell.send(key)
        shell.wait_for(f"stopping {label}")
        shell.wait_for(f"{label} is down")
        shell.send(key)
        shell.wait_for(f"starting {label}")
        shell.wait_for("listening")
    shell.send("\x03")  # Ctrl-C
    shell.wait_for("SIGINT, stopping B, then A")
    shell.wait_for(PROMPT)

    # A pipe on a terminal: the reader waits for the end of the output.
    shell.send(f"{sys.argv[1]} scenarios --explain | grep -c 'the same in body, counter, log of B and trace'\n")
    shell.wait_for(r"\s7\r\n")
    shell.wait_for(PROMPT)

    shell = Shell(TERM="dumb")
    shell.send(f"exec {sys.argv[1]}\n")
    output = shell.wait_for("ends it all")
    shell.send("q")
    output += shell.wait_for(r'service=A [^\n]*msg="stopped"')
    assert "q, stopping B, then A" in output and "\x1b[" not in output, output

    shell = Shell(TERM="xterm")
    shell.send(f"{sys.argv[1]}\n")
    services = re.findall(r"  [AB] +http://([\d.]+):(\d+)  pid", shell.wait_for("ends it all"))
    assert len(services) == 2, services
    os.close(shell.fd)  # the terminal is gone
    for host, port in services:
        wait_until_refused(host, int(port))
    print("keys, Ctrl-Z, Ctrl-C, a pipe, a dumb terminal and a closed terminal work")


main()
