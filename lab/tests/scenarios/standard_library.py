"""The two services of the course with the standard library. Usage: a HOST:PORT, or b HOST:PORT A_URL."""
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

role, address, *upstream = sys.argv[1:]


def call_echo(msg):
    if not msg:
        return 400, {"error": "Missing 'msg' parameter"}
    url = f"{upstream[0]}/echo?{urllib.parse.urlencode({'msg': msg})}"
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return 200, {"service_a": json.load(response), "service_b": "ok"}
    except Exception as error:
        return 503, {"error": str(error) or type(error).__name__, "service_a": "unavailable", "service_b": "ok"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        msg = urllib.parse.parse_qs(url.query).get("msg", [""])[0]
        if url.path == "/health":
            self.respond(200, {"service": role.upper(), "status": "ok"})
        elif (role, url.path) == ("a", "/echo"):
            self.respond(200, {"echo": msg})
        elif (role, url.path) == ("b", "/call-echo"):
            self.respond(*call_echo(msg))
        else:
            self.respond(404, {"error": "not found"})

    def do_POST(self):
        self.respond(405, {"error": "method not allowed"})

    def respond(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


host, port = address.rsplit(":", 1)
server = Server((host, int(port)), Handler)
print("listening", flush=True)
server.serve_forever()
