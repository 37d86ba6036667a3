//! What OpenClaw says, as captured from version 2026.9.6.

use serde_json::{Value, json};

/// A run's identifiers, which must not reach a client.
const RUN: &str = "chatcmpl_3062dcff-191b-4d8c-ad95-b4185a238842";
const RESPONSE: &str = "resp_e1d78fe0-6ecd-43c4-858d-2bc0fb3ac638";

/// A request that goes to Chat Completions.
pub(super) fn question(stream: bool) -> Value {
    json!({"model": "openclaw", "messages": [{"role": "user", "content": "hello there"}], "stream": stream})
}

/// A request that goes to Responses.
pub(super) fn picture(stream: bool) -> Value {
    let mut body = question(stream);
    body["attachments"] = json!([{"type": "image", "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"}]);
    body
}

/// A whole answer of Chat Completions.
pub(super) fn completion(text: &str, finish: &str) -> String {
    json!({
        "id": RUN, "object": "chat.completion", "created": 1_795_232_797, "model": "openclaw",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1997, "completion_tokens": 5, "total_tokens": 2002}
    })
    .to_string()
}

fn response_object(status: &str, text: &str) -> Value {
    json!({
        "id": RESPONSE, "object": "response", "created_at": 1_795_232_802, "status": status, "model": "openclaw",
        "output": [{"type": "message", "id": "msg_6db3c778", "role": "assistant", "phase": "final_answer",
                    "content": [{"type": "output_text", "text": text}], "status": "completed"}],
        "usage": {"input_tokens": 1997, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                  "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2002}
    })
}

/// A whole answer of Responses.
pub(super) fn response(text: &str, status: &str) -> String {
    response_object(status, text).to_string()
}

/// The error object of Chat Completions.
pub(super) fn error(message: &str, kind: &str) -> String {
    json!({"error": {"message": message, "type": kind}}).to_string()
}

fn chunk(choices: &Value) -> String {
    let chunk = json!({"id": RUN, "object": "chat.completion.chunk", "created": 1_795_232_800,
                       "model": "openclaw", "choices": choices});
    format!("data: {chunk}\n\n")
}

/// The first event of a Chat Completions stream.
pub(super) fn chunk_role() -> String {
    chunk(&json!([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": null}]))
}

/// Text in a Chat Completions stream.
pub(super) fn chunk_text(text: &str) -> String {
    chunk(&json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]))
}

/// The end of the text in a Chat Completions stream.
pub(super) fn chunk_finish(reason: &str) -> String {
    chunk(&json!([{"index": 0, "delta": {}, "finish_reason": reason}]))
}

/// The usage of a Chat Completions stream.
pub(super) fn chunk_usage() -> String {
    let usage = json!({"prompt_tokens": 1997, "completion_tokens": 5, "total_tokens": 2002});
    let chunk = json!({"id": RUN, "object": "chat.completion.chunk", "created": 1_795_232_800,
                       "model": "openclaw", "choices": [], "usage": usage});
    format!("data: {chunk}\n\n")
}

/// The end mark of both streams.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// A Chat Completions stream.
pub(super) fn completion_stream(pieces: &[&str]) -> String {
    let texts: String = pieces.iter().map(|piece| chunk_text(piece)).collect();
    [chunk_role(), texts, chunk_finish("stop"), chunk_usage(), DONE.into()].concat()
}

/// An event of a Responses stream.
pub(super) fn response_event(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
}

/// Text in a Responses stream.
pub(super) fn response_text(text: &str) -> String {
    response_event(&json!({"type": "response.output_text.delta", "item_id": "msg_6db3c778",
                           "output_index": 0, "content_index": 0, "delta": text}))
}

/// A Responses stream.
pub(super) fn response_stream(pieces: &[&str]) -> String {
    let text = pieces.concat();
    let mut out = String::new();
    for kind in ["response.created", "response.in_progress"] {
        let response = json!({"id": RESPONSE, "status": "in_progress", "output": [],
                              "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}});
        out += &response_event(&json!({"type": kind, "response": response}));
    }
    let item = json!({"type": "message", "id": "msg_6db3c778", "role": "assistant", "content": []});
    out += &response_event(&json!({"type": "response.output_item.added", "output_index": 0, "item": item}));
    for piece in pieces {
        out += &response_text(piece);
    }
    out += &response_event(&json!({"type": "response.output_text.done", "output_index": 0, "text": text}));
    let part = json!({"type": "output_text", "text": text});
    out += &response_event(&json!({"type": "response.content_part.done", "output_index": 0, "part": part}));
    let response = response_object("completed", &text);
    out += &response_event(&json!({"type": "response.completed", "response": response}));
    out + DONE
}

/// The failure of a Responses stream.
pub(super) fn response_failed(code: &str, message: &str) -> String {
    let response = json!({"id": RESPONSE, "status": "failed", "output": [],
                          "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
                          "error": {"code": code, "message": message}});
    response_event(&json!({"type": "response.failed", "response": response}))
}
