"""Holds the fake of Slack against Slack's own client for Python, so that the two agree on the protocol.

A tool for whoever changes the fake; no test runs it. It needs slack_sdk, best in an environment of its own:

    python3 -m venv target/slack-sdk && target/slack-sdk/bin/pip install slack_sdk
    cargo build --package gatekeeper-tests --bin slack-fake
    target/slack-sdk/bin/python tests/tools/slack_sdk_check.py target/debug/slack-fake

It ends with the number of checks, and with status 1 at the first that fails.
"""

import json
import queue
import subprocess
import sys
import threading

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from slack_sdk.models import blocks as kit
from slack_sdk.models.metadata import Metadata
from slack_sdk.models.views import View
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.version import __version__

PATIENCE_SECONDS = 30
checks = 0


def check(what, holds):
    global checks
    if not holds:
        sys.exit(f"FAILED: {what}")
    checks += 1
    print(f"ok: {what}")


def refused(what, error, call):
    try:
        call()
    except SlackApiError as refusal:
        check(f"{what}: {error}", refusal.response["error"] == error)
        return refusal.response
    sys.exit(f"FAILED: {what} should be refused with {error}")


class Fake:
    """The fake as a program: commands in, JSON lines out."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.start = json.loads(self.process.stdout.readline())
        self.answers = queue.Queue()
        self.seen = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            value = json.loads(line)
            (self.answers if value["saw"] == "command" else self.seen).put(value)

    def command(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        answer = self.answers.get(timeout=PATIENCE_SECONDS)
        if "error" in answer:
            sys.exit(f"FAILED: {command}: {answer['error']}")
        return answer["answer"]

    def saw(self, **wanted):
        """Waits for a line that has all of this."""
        while True:
            value = self.seen.get(timeout=PATIENCE_SECONDS)
            if all(value.get(key) == wanted[key] for key in wanted):
                return value

    def end(self):
        self.process.stdin.close()
        check("the fake ends with its input", self.process.wait(timeout=PATIENCE_SECONDS) == 0)


def web(fake, client):
    who = client.auth_test()
    check("auth.test names workspace and bot", (who["team_id"], who["user_id"]) == (fake.start["team"], "U0BOT"))
    check("auth.test tells scopes", "chat:write" in who.headers["x-oauth-scopes"])

    channel = fake.start["conversation"]
    card = [
        kit.HeaderBlock(text="AB12-CD34, risk high"),
        kit.RichTextBlock(
            elements=[
                kit.RichTextPreformattedElement(elements=[kit.RichTextElementParts.Text(text="<!channel> & *b*")]),
            ]
        ),
        kit.ActionsBlock(
            elements=[
                kit.ButtonElement(text="Approve once", action_id="approve", value="AB12-CD34 digest", style="primary"),
                kit.ButtonElement(text="Deny", action_id="deny", value="AB12-CD34 digest", style="danger"),
            ]
        ),
    ]
    metadata = Metadata(event_type="gatekeeper_post", event_payload={"once": "AB12-CD34"})
    posted = client.chat_postMessage(channel=channel, text="card", blocks=card, metadata=metadata)
    ts = posted["ts"]
    check("chat.postMessage gives the message", posted["message"]["text"] == "card")

    reply = client.chat_postMessage(channel=channel, text="detail", thread_ts=ts)
    updated = client.chat_update(channel=channel, ts=ts, text="card, changed", blocks=card)
    check("chat.update changes the message", updated["ts"] == ts and updated["text"] == "card, changed")

    history = client.conversations_history(channel=channel, limit=1, include_all_metadata=True)
    message = history["messages"][0]
    check("history has the card, not its thread", message["ts"] == ts and message["text"] == "card, changed")
    check("an update keeps metadata", message["metadata"]["event_payload"] == {"once": "AB12-CD34"})
    bare = client.conversations_history(channel=channel)["messages"][0]
    check("metadata comes only when asked for", "metadata" not in bare)
    replies = client.conversations_replies(channel=channel, ts=ts)
    check("a thread begins with its first message", [m["ts"] for m in replies["messages"]] == [ts, reply["ts"]])
    pages = [page["messages"] for page in client.conversations_replies(channel=channel, ts=ts, limit=1)]
    check("the client's own paging works", [len(page) for page in pages] == [1, 1])

    user = client.users_info(user="U1")["user"]
    check("users.info gives a user object", user["id"] == "U1" and user["is_bot"] is False)
    check("chat.postEphemeral", client.chat_postEphemeral(channel=channel, user="U1", text="private")["ok"])

    def post(**content):
        return lambda: client.api_call("chat.postMessage", json={"channel": channel, **content})

    def update(**content):
        return lambda: client.api_call("chat.update", json={"channel": channel, **content})

    header = [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]
    refused("a user that is not there", "user_not_found", lambda: client.users_info(user="U404"))
    refused("no text", "no_text", post())
    refused("a long text in an update", "msg_too_long", update(ts=ts, text="x" * 4001))
    refused("no such message", "message_not_found", update(ts="1.1", text="x"))
    refused("no such thread", "thread_not_found", post(text="x", thread_ts="1.1"))
    refused("no such conversation", "channel_not_found", post(text="x", channel="C404"))
    response = refused("a long header", "invalid_blocks", post(text="x", blocks=header))
    check("what is wrong is told with its place", "/blocks/0/text" in response["response_metadata"]["messages"][0])

    app = WebClient(token=fake.start["app_token"], base_url=fake.start["api"])
    refused(
        "the bot token opens no socket",
        "not_allowed_token_type",
        lambda: client.apps_connections_open(app_token=fake.start["bot_token"]),
    )
    refused(
        "the app token posts nothing",
        "not_allowed_token_type",
        lambda: app.chat_postMessage(channel=channel, text="x"),
    )
    refused("another token", "invalid_auth", WebClient(token="xoxb-other", base_url=fake.start["api"]).auth_test)

    fake.command(do="fault", method="auth.test", limited=1)
    patient = WebClient(token=fake.start["bot_token"], base_url=fake.start["api"])
    patient.retry_handlers.append(RateLimitErrorRetryHandler(max_retry_count=1))
    check("the client understands a limit and tries again", patient.auth_test()["ok"])
    return channel, ts


def sockets(fake, client, channel, ts):
    received = queue.Queue()

    def take(socket, request):
        socket.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
        received.put(request)

    socket = SocketModeClient(app_token=fake.start["app_token"], web_client=client)
    socket.socket_mode_request_listeners.append(take)
    socket.connect()
    fake.saw(saw="connected")
    check("the socket client is connected", socket.is_connected())

    envelope = fake.command(do="click", user="U1", action="deny", ts=ts)["envelope"]
    click = received.get(timeout=PATIENCE_SECONDS)
    check("a click arrives as an interactive envelope", (click.type, click.envelope_id) == ("interactive", envelope))
    payload = click.payload
    names = (payload["team"]["id"], payload["user"]["id"], payload["api_app_id"])
    check("it names workspace, user and app", names == (fake.start["team"], "U1", "A1"))
    container = payload["container"]
    check("it names the card", (container["channel_id"], container["message_ts"]) == (channel, ts))
    check("it has the button's value", payload["actions"][0]["value"] == "AB12-CD34 digest")
    fake.saw(saw="acknowledged", envelope=envelope)
    check("the client's acknowledgement is understood", True)

    view = View(
        type="modal",
        callback_id="reason",
        title="Deny",
        submit="Deny",
        private_metadata="memory",
        blocks=[kit.InputBlock(block_id="why", label="Why?", element=kit.PlainTextInputElement(action_id="why"))],
    )
    opened = client.views_open(trigger_id=payload["trigger_id"], view=view)
    check("views.open gives the view", opened["view"]["id"].startswith("V"))
    refused(
        "a trigger is good once",
        "exchanged_trigger_id",
        lambda: client.views_open(trigger_id=payload["trigger_id"], view=view),
    )
    fake.command(do="submit", user="U1", reason="not now")
    submission = received.get(timeout=PATIENCE_SECONDS).payload
    view = submission["view"]
    brought = (submission["type"], view["private_metadata"], view["state"]["values"]["why"]["why"]["value"])
    check("a window comes back with what was typed", brought == ("view_submission", "memory", "not now"))

    fake.command(do="type", user="U1", text="approve AB12-CD34 a < b", thread=ts)
    typed = received.get(timeout=PATIENCE_SECONDS)
    text = typed.payload["event"]["text"]
    check("a message arrives as an event, escaped", (typed.type, text) == ("events_api", "approve AB12-CD34 a &lt; b"))

    fake.command(do="disconnect", reason="refresh_requested")
    fake.saw(saw="connected")
    check("the client connects again when it is told to", True)
    socket.close()


def main():
    fake = Fake(sys.argv[1])
    print(f"slack_sdk {__version__} against the fake at {fake.start['api']}")
    client = WebClient(token=fake.start["bot_token"], base_url=fake.start["api"])
    channel, ts = web(fake, client)
    sockets(fake, client, channel, ts)
    fake.end()
    print(f"{checks} checks hold")


if __name__ == "__main__":
    main()
