"""Whom alerts are told to: a mail server (STARTTLS and a password where a certificate is given) and an HTTP server
that checks what it is sent as the providers do. Each thing that it took is a line of JSON.

Argument: the folder with server.pem and server.key, or "-" for a mail server without TLS.
"""

import base64
import hashlib
import hmac
import json
import ssl
import sys
import threading
import urllib.parse
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

LOCK = threading.Lock()
USER, PASSWORD, SECRET = "brolly", "pass word", "the secret"
ACCESS_KEY, ACCOUNT = ("key-id", "key-secret"), ("AC1", "token")


def tell(thing):
    with LOCK:
        print(json.dumps(thing), flush=True)


class Mails:
    async def handle_DATA(self, server, session, envelope):
        if "refused" in envelope.rcpt_tos[0]:
            return "550 no such person here"
        mail = message_from_bytes(envelope.content, policy=policy.default)
        tell({"by": "mail", "to": envelope.rcpt_tos, "from": envelope.mail_from, "id": mail["message-id"],
              "subject": mail["subject"], "text": mail.get_content(), "tls": session.ssl is not None,
              "user": session.auth_data and session.auth_data.login.decode()})
        return "250 taken"


class FreePort(Controller):
    """It looks whether it can be reached at the port that was asked for, which port 0 is not."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


def authenticate(server, session, envelope, mechanism, data):
    known = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=False, auth_data=data)


def alibaba_is_right(handler, query):
    """The signature V3 of Alibaba Cloud, from its documentation."""
    names = ["host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"]
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")
    asked = "&".join(f"{quote(n)}={quote(v)}" for n, v in sorted(query))
    lines = "".join(f"{name}:{handler.headers[name].strip()}\n" for name in names)
    request = "\n".join(["POST", "/", asked, lines, ";".join(names), hashlib.sha256(b"").hexdigest()])
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(request.encode()).hexdigest()
    signature = hmac.new(ACCESS_KEY[1].encode(), text.encode(), hashlib.sha256).hexdigest()
    expected = f"ACS3-HMAC-SHA256 Credential={ACCESS_KEY[0]},SignedHeaders={';'.join(names)},Signature={signature}"
    return hmac.compare_digest(expected, handler.headers["authorization"])


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, answer = 200, {}
        if url.path == "/hook":
            mac = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(mac, self.headers.get("x-hub-signature-256", "")):
                tell({"by": "hook", **json.loads(body)})
            else:
                status = 401
        elif url.path == "/sms":
            if self.headers.get("authorization") == "Bearer " + SECRET:
                tell({"by": "sms", **json.loads(body)})
            else:
                status, answer = 403, {"error": "who are you"}
        elif url.path == "/":
            query = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
            if self.headers["x-acs-action"] == "SendSms" and alibaba_is_right(self, query):
                tell({"by": "alibaba", **dict(query)})
                answer = {"Code": "OK"}
            else:
                answer = {"Code": "SignatureDoesNotMatch", "Message": "no"}
        elif url.path == "/2010-04-01/Accounts/AC1/Messages.json":
            wanted = "Basic " + base64.b64encode(":".join(ACCOUNT).encode()).decode()
            status = 201 if self.headers["authorization"] == wanted else 401
            if status == 201:
                tell({"by": "twilio", **dict(urllib.parse.parse_qsl(body.decode()))})
        else:
            status = 404
        answer = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


folder = sys.argv[1]
options = {}
if folder != "-":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
    options = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": authenticate}
mails = FreePort(Mails(), hostname="127.0.0.1", port=0, **options)
mails.start()
requests = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
threading.Thread(target=requests.serve_forever, daemon=True).start()
tell({"mail": mails.port, "http": requests.server_address[1]})
sys.stdin.read()
