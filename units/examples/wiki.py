#!/usr/bin/env python3
"""The example's application: a small web server that shows its client, on port 8000 of all addresses."""

import http.server
import os
import socket
import time

STARTED = time.time()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self):
        page = (
            "<!doctype html><title>wiki</title><h1>It works</h1>"
            f"<p>Process {os.getpid()}, up for {time.time() - STARTED:.1f} s, "
            f"asked by {self.client_address[0].removeprefix('::ffff:')}.</p>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        peer, port = self.client_address[:2]
        self.send_header("X-Peer", f"{peer.removeprefix('::ffff:')}:{port}")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # The default of 5 drops connections of a burst; each of these then waits for a second.
    request_queue_size = 1024
    daemon_threads = True
    if socket.has_dualstack_ipv6():
        address_family = socket.AF_INET6

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


Server(("", 8000), Handler).serve_forever()
