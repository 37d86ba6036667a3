"""OpenAI's Python SDK against the model gateway: sys.argv is base URL and token."""

import json
import sys

import openai
from openai import OpenAI

base_url, token = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key=token, max_retries=0, timeout=30)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def ask(text, **more):
    more.setdefault("model", "local")
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **more)


def whole():
    answer = ask("你好")
    assert answer.choices[0].message.content == "echo: 你好", answer
    assert answer.usage.total_tokens == 15, answer


def streamed():
    chunks = list(ask("one two three four", stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "echo: one two three four", text
    assert chunks[-1].choices[0].finish_reason == "stop", chunks[-1]
    assert all(chunk.usage is None for chunk in chunks), "usage that was not asked for"


def streamed_with_usage():
    chunks = list(ask("hi", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.total_tokens == 15, chunks[-1]


def tools():
    call = ask("[[rt:tool]]", tools=TOOLS).choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "深圳"}), call


def tools_streamed():
    chunks = list(ask("[[rt:tool]]", tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather", calls
    assert chunks[-1].choices[0].finish_reason == "tool_calls", chunks[-1]


def json_mode():
    answer = ask("x", response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"echo": "x"}, answer


def models():
    assert [model.id for model in client.models.list()][:1] == ["backed"], client.models.list()


def fails(kind, status, code, call):
    try:
        call()
    except kind as error:
        assert (error.status_code, error.code) == (status, code), (error.status_code, error.code)
        assert error.body["traceId"], error.body
        assert "canary" not in str(error), error
        return
    raise AssertionError(f"no {kind}")


def errors():
    fails(openai.NotFoundError, 404, "model_not_found", lambda: ask("x", model="gpt-none"))
    fails(openai.InternalServerError, 502, "upstream_error", lambda: ask("[[rt:error=500]]"))
    fails(openai.InternalServerError, 503, "upstream_overloaded", lambda: ask("[[rt:error=429]]"))
    fails(openai.InternalServerError, 502, "upstream_protocol", lambda: ask("[[rt:rubbish]]"))
    fails(openai.InternalServerError, 502, "upstream_protocol", lambda: ask("[[rt:rubbish]]", stream=True))
    fails(openai.BadRequestError, 400, "context_length_exceeded", lambda: ask("long " * 2000, model="small"))
    wrong = OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
    fails(openai.AuthenticationError, 401, "unauthorized", wrong.models.list)


def error_in_a_stream():
    seen = []
    try:
        for chunk in ask("one two three four [[rt:cut]]", stream=True):
            seen.append(chunk)
    except openai.APIError as error:
        assert seen and error.code == "upstream_protocol", (seen, error.code)
        return
    raise AssertionError("a stream that was cut off ended in order")


CHECKS = [whole, streamed, streamed_with_usage, tools, tools_streamed, json_mode, models, errors, error_in_a_stream]
for check in CHECKS:
    check()
    print("passed", check.__name__, flush=True)
