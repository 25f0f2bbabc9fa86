"""A webhook receiver that answers as told and keeps what it got."""

import hashlib
import hmac
import http.server
import json
import threading


class Receiver:
    """Listens on a free loopback port. `answers` are the status codes of the next POSTs, the last
    one for ever. `keep_port` restarts one on the same address."""

    def __init__(self, *answers, port=0):
        self.answers, self.posts, self.lock = list(answers) or [200], [], threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with receiver.lock:
                    status = receiver.answers[0]
                    if len(receiver.answers) > 1:
                        receiver.answers.pop(0)
                    receiver.posts.append((status, dict(self.headers), body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = "http://127.0.0.1:%d/hook" % self.port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def delivered(self):
        """The JSON bodies that were answered with 2xx."""
        with self.lock:
            return [json.loads(body) for status, _, body in self.posts if 200 <= status < 300]

    def attempts(self):
        with self.lock:
            return len(self.posts)

    def signed_by(self, secret):
        with self.lock:
            return all(headers.get("X-Tollhouse-Signature", headers.get("x-tollhouse-signature")) ==
                       "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
                       for _, headers, body in self.posts)
