"""DingTalk's own SDK as the client of the scripted DingTalk: sys.argv is the app's key and secret.

It connects, gets a message, answers it in its conversation, and leaves when it is told to.
"""

import asyncio
import sys

import dingtalk_stream
from dingtalk_stream import AckMessage, ChatbotMessage

credential = dingtalk_stream.Credential(*sys.argv[1:])
client = dingtalk_stream.DingTalkStreamClient(credential)


class Handler(dingtalk_stream.ChatbotHandler):
    async def process(self, callback):
        message = ChatbotMessage.from_dict(callback.data)
        assert message.message_type == "text" and message.conversation_type == "1", message
        assert message.sender_staff_id and message.session_webhook_expired_time > message.create_at, message
        reply = self.reply_text("sdk: " + message.text.content, message)
        assert reply["errcode"] == 0, reply
        print("passed message", message.message_id, flush=True)
        return AckMessage.STATUS_OK, "OK"


class Done(Exception):
    pass


async def once():
    """The SDK begins again for ever; here the second address is not asked for."""
    opened = client.open_connection
    times = 0

    def counted():
        nonlocal times
        times += 1
        if times > 1:
            raise asyncio.CancelledError
        return opened()

    client.open_connection = counted
    started = asyncio.create_task(client.start())
    while times < 2:
        await asyncio.sleep(0.02)
    started.cancel()


client.register_callback_handler(ChatbotMessage.TOPIC, Handler())
token = client.get_access_token()
assert token and token == client.get_access_token(), token
print("passed token", flush=True)
asyncio.run(once())
