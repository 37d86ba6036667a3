"""What DingTalk's own SDK makes of frames: sys.argv is the app's key and secret, the standard input a
JSON object a line: a frame that was sent and its answer, or a signature with its time.

The SDK has no code for signatures; that of DingtalkChatbot, which signs as DingTalk documents it, is
held against ours.
"""

import json
import sys
from urllib.parse import parse_qs, urlsplit

from dingtalk_stream.frames import AckMessage, CallbackMessage, EventMessage, Headers, SystemMessage
from dingtalkchatbot.chatbot import DingtalkChatbot

KINDS = {kind.TYPE: kind for kind in (CallbackMessage, EventMessage, SystemMessage)}
KEYS = {"code", "headers", "message", "data"}
CODES = {
    AckMessage.STATUS_OK,
    AckMessage.STATUS_BAD_REQUEST,
    AckMessage.STATUS_NOT_IMPLEMENT,
    AckMessage.STATUS_SYSTEM_EXCEPTION,
}


def frame(sent, answer):
    message = KINDS[sent["type"]].from_dict(sent)
    assert message.headers.topic and message.headers.message_id, message
    # What the SDK itself would answer has these keys, and the headers of a class of its own.
    own = AckMessage()
    own.headers.message_id = message.headers.message_id
    own.headers.content_type = Headers.CONTENT_TYPE_APPLICATION_JSON
    assert answer.keys() == own.to_dict().keys() == KEYS, answer
    headers = Headers.from_dict(answer["headers"])
    assert headers.extensions == {} and headers.to_dict() == own.headers.to_dict(), answer
    assert answer["code"] in CODES and isinstance(answer["message"], str), answer
    data = json.loads(answer["data"])
    if isinstance(message, SystemMessage):
        assert data == message.data, answer
    if isinstance(message, CallbackMessage) and message.headers.topic == "/v1.0/im/bot/messages/get":
        assert (answer["code"], data.keys()) == (AckMessage.STATUS_OK, {"response"}), answer
    print("passed", sent["type"], message.headers.topic)


def signature(timestamp, sign, secret=None):
    robot = DingtalkChatbot("https://oapi.dingtalk.com/robot/send?access_token=t", secret=secret or sys.argv[2])
    robot.start_time = int(timestamp) / 1000
    robot.update_webhook()
    query = parse_qs(urlsplit(robot.webhook).query)
    assert (query["timestamp"], query["sign"]) == ([timestamp], [sign]), query
    print("passed signature", timestamp)


for line in sys.stdin:
    case = json.loads(line)
    frame(**case) if "sent" in case else signature(**case)
