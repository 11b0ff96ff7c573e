#!/usr/bin/python3
"""A registry that serves one image and does what real ones do only on bad days.

    image_fake_registry.py --port N --layout DIR [--token] [--cut BYTES] [--no-ranges] [--flaky N] [--corrupt KIND] [--redirect]

DIR is an OCI layout. Every request is a line on stdout: METHOD PATH [RANGE].
  --token     wants a bearer token; gives one to user:password
  --cut N     hangs up after N bytes of each answer to a blob
  --no-ranges ignores Range
  --flaky N   answers 503 to every first N requests of a path
  --redirect  sends blobs from another path, where credentials must not arrive
  --corrupt   blob: one byte is wrong; long: more bytes than the manifest says; manifest: not what its digest says;
              huge: an endless manifest
"""

import argparse
import base64
import collections
import http.server
import json
import pathlib
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--layout", type=pathlib.Path, required=True)
parser.add_argument("--token", action="store_true")
parser.add_argument("--cut", type=int, default=0)
parser.add_argument("--no-ranges", action="store_true")
parser.add_argument("--flaky", type=int, default=0)
parser.add_argument("--redirect", action="store_true")
parser.add_argument("--corrupt", default="")
args = parser.parse_args()

index = json.loads((args.layout / "index.json").read_text())
top = index["manifests"][0]
seen = collections.Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        print(self.command, self.path, self.headers.get("Range", ""), "auth" if self.headers.get("Authorization") else "", flush=True)
        seen[path] += 1
        if path == "/token":
            wanted = "Basic " + base64.b64encode(b"user:password").decode()
            if self.headers.get("Authorization") != wanted:
                return self.reply(401, b"{}")
            return self.reply(200, b'{"token": "good-token"}')
        if path.startswith("/elsewhere/"):
            if self.headers.get("Authorization"):
                return self.reply(400, b"credentials arrived where they must not")
            return self.blob(path.rsplit("/", 1)[1])
        if args.token and self.headers.get("Authorization") != "Bearer good-token":
            realm = f'Bearer realm="http://localhost:{args.port}/token",service="fake, with comma",scope="repository:app:pull"'
            return self.reply(401, b"{}", [("WWW-Authenticate", realm)])
        if seen[path] <= args.flaky:
            return self.reply(503, b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "later"}]}')
        if path == "/v2/":
            return self.reply(200, b"{}")
        if path.startswith("/v2/app/manifests/"):
            return self.manifest(path.rsplit("/", 1)[1])
        if path.startswith("/v2/app/blobs/"):
            digest = path.rsplit("/", 1)[1]
            if args.redirect:
                return self.reply(307, b"", [("Location", f"http://127.0.0.1:{args.port}/elsewhere/{digest}")])
            return self.blob(digest)
        return self.reply(404, b'{"errors": [{"code": "NAME_UNKNOWN", "message": "no such thing"}]}')

    def manifest(self, version):
        digest = version if version.startswith("sha256:") else top["digest"]
        file = args.layout / "blobs" / digest.replace(":", "/")
        if not file.exists():
            return self.reply(404, b"{}")
        body = file.read_bytes()
        if args.corrupt == "manifest":
            body += b" "
        if args.corrupt == "huge":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b" " * 65536)
            except OSError:
                pass
            self.close_connection = True
            return None
        kind = json.loads(body).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        return self.reply(200, body, [("Content-Type", kind), ("Docker-Content-Digest", digest)])

    def blob(self, digest):
        file = args.layout / "blobs" / digest.replace(":", "/")
        if not file.exists():
            return self.reply(404, b"{}")
        body = file.read_bytes()
        if len(body) > 1000:
            if args.corrupt == "blob":
                body = body[:500] + bytes([body[500] ^ 1]) + body[501:]
            if args.corrupt == "long":
                body += b"x" * 100000
        start, status = 0, 200
        if self.headers.get("Range") and not args.no_ranges:
            start, status = int(self.headers["Range"].split("=")[1].rstrip("-")), 206
        body = body[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if args.cut and len(body) > args.cut:
            self.wfile.write(body[: args.cut])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return None
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
        return None

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


try:
    Server(("127.0.0.1", args.port), Handler).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
