// OpenAI's JavaScript SDK against the model gateway: its directory, base URL and token.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [directory, baseURL, apiKey] = process.argv.slice(2);
const { OpenAI } = createRequire(`${directory}/package.json`)("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

const ask = (text, more = {}) =>
  client.chat.completions.create({ model: "local", messages: [{ role: "user", content: text }], ...more });

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

async function fails(kind, status, code, call) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof kind, String(error));
    assert.deepEqual([error.status, error.code], [status, code]);
    assert.ok(error.error.traceId);
    assert.ok(!String(error).includes("canary"));
    return true;
  });
}

const checks = {
  async whole() {
    const answer = await ask("你好");
    assert.equal(answer.choices[0].message.content, "echo: 你好");
    assert.equal(answer.usage.total_tokens, 15);
  },
  async streamed() {
    const chunks = await all(ask("one two three four", { stream: true }));
    const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    assert.equal(text, "echo: one two three four");
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
    assert.ok(chunks.every((chunk) => !chunk.usage));
  },
  async streamed_with_usage() {
    const chunks = await all(ask("hi", { stream: true, stream_options: { include_usage: true } }));
    assert.equal(chunks.at(-1).usage.total_tokens, 15);
  },
  async tools() {
    const answer = await ask("[[rt:tool]]", { tools });
    const call = answer.choices[0].message.tool_calls[0].function;
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ["weather", { city: "深圳" }]);
  },
  async tools_streamed() {
    const chunks = await all(ask("[[rt:tool]]", { tools, stream: true }));
    const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
    assert.equal(calls[0].function.name, "weather");
    assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
  },
  async json_mode() {
    const answer = await ask("x", { response_format: { type: "json_object" } });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { echo: "x" });
  },
  async models() {
    const ids = [];
    for await (const model of await client.models.list()) ids.push(model.id);
    assert.equal(ids[0], "backed");
  },
  async errors() {
    const { NotFoundError, InternalServerError, BadRequestError, AuthenticationError } = OpenAI;
    await fails(NotFoundError, 404, "model_not_found", () => ask("x", { model: "gpt-none" }));
    await fails(InternalServerError, 502, "upstream_error", () => ask("[[rt:error=500]]"));
    await fails(InternalServerError, 503, "upstream_overloaded", () => ask("[[rt:error=429]]"));
    await fails(InternalServerError, 502, "upstream_protocol", () => ask("[[rt:rubbish]]"));
    await fails(InternalServerError, 502, "upstream_protocol", () => ask("[[rt:rubbish]]", { stream: true }));
    await fails(BadRequestError, 400, "context_length_exceeded", () => ask("long ".repeat(2000), { model: "small" }));
    const wrong = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
    await fails(AuthenticationError, 401, "unauthorized", () => wrong.models.list());
  },
  async error_in_a_stream() {
    const seen = [];
    await assert.rejects(
      async () => {
        for await (const chunk of await ask("one two three four [[rt:cut]]", { stream: true })) seen.push(chunk);
      },
      (error) => error instanceof OpenAI.APIError && error.code === "upstream_protocol",
    );
    assert.ok(seen.length > 0);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("passed", name);
}
