"""The two services of the course with Flask. Usage: a HOST:PORT, or b HOST:PORT A_URL."""
import json
import logging
import sys
import urllib.parse
import urllib.request

from flask import Flask, jsonify, request
from werkzeug.serving import make_server

role, address, *upstream = sys.argv[1:]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
app = Flask(__name__)


@app.get("/health")
def health():
    return jsonify(status="healthy")


if role == "a":

    @app.get("/echo")
    def echo():
        return jsonify(echo=request.args.get("msg", ""))


if role == "b":

    @app.get("/call-echo")
    def call_echo():
        msg = request.args.get("msg")
        if not msg:
            return jsonify(error="msg is required"), 400
        url = f"{upstream[0]}/echo?{urllib.parse.urlencode({'msg': msg})}"
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                return jsonify(msg=msg, echo_response=json.load(response))
        except Exception as error:
            return jsonify(error=f"service A is unavailable: {error}"), 503


host, port = address.rsplit(":", 1)
server = make_server(host, int(port), app, threaded=True)
print("listening", flush=True)
server.serve_forever()
