//! What is asked: the same questions for all sides.

use minigate_tests::media;
use serde_json::{Value, json};

use super::upstream;

/// The client's key at Minigate, and the token at the upstream.
pub(super) const KEY: &str = "benchmark-key";

/// One kind of request.
pub(super) struct Case {
    pub id: &'static str,
    pub name: &'static str,
    pub streamed: bool,
    /// Bytes that are added to a picture of one pixel; without a picture none.
    pub picture: Option<usize>,
    /// Open connections, each with one request at a time.
    pub connections: usize,
    /// So many times fewer requests than of the smallest case.
    pub share: usize,
    /// At most so many times nginx's CPU time.
    pub target: f64,
}

/// The three cases.
pub(super) const CASES: &[Case] = &[
    Case { id: "small", name: "1 KB", streamed: false, picture: None, connections: 8, share: 1, target: 2.5 },
    Case {
        id: "picture",
        name: "1 MB picture",
        streamed: false,
        picture: Some(1 << 20),
        connections: 4,
        share: 40,
        target: 2.0,
    },
    Case {
        id: "stream",
        name: "stream of 21 events",
        streamed: true,
        picture: None,
        connections: 16,
        share: 20,
        target: 3.0,
    },
];

/// For the edge alone.
pub(super) const LARGE_PICTURE: Case = Case {
    id: "picture5",
    name: "5 MB picture",
    streamed: false,
    picture: Some(5 << 20),
    connections: 1,
    share: 300,
    target: 0.0,
};

impl Case {
    /// The body of `POST /api/chat`.
    pub(super) fn body(&self) -> Vec<u8> {
        let text = "请根据下面的行程单告诉我：上海到北京的航班几点起飞，需要提前多久到机场？";
        let earlier = "The itinerary: Shanghai Hongqiao to Beijing Capital, departure 09:30, arrival 11:50. ";
        let messages = json!([
            {"role": "user", "content": earlier.repeat(4)},
            {"role": "assistant", "content": "好的，我看到了您的行程单。请问您想了解什么？"},
            {"role": "user", "content": earlier.repeat(3)},
            {"role": "user", "content": text},
        ]);
        let mut body = json!({"model": "openclaw", "messages": messages, "stream": self.streamed});
        if let Some(padding) = self.picture {
            let data = media::encode(&media::png(padding));
            body["messages"] = json!([{"role": "user", "content": text}]);
            body["attachments"] = json!([{"type": "image", "data": data, "mimeType": "image/png"}]);
        }
        Value::to_string(&body).into_bytes()
    }

    /// What every answer must contain.
    pub(super) fn expected(&self) -> &'static str {
        if self.streamed { "[DONE]" } else { upstream::SAYS }
    }

    /// The whole request to Minigate.
    pub(super) fn for_minigate(&self) -> Vec<u8> {
        post("/api/chat", KEY, &self.body())
    }

    /// The whole request to a plain proxy: what Minigate made of it, byte for byte.
    pub(super) fn for_nginx(&self, forwarded: &[u8]) -> Vec<u8> {
        let path = match (self.streamed, self.picture) {
            (true, _) => "/stream/v1/chat/completions",
            (false, None) => "/v1/chat/completions",
            (false, Some(_)) => "/v1/responses",
        };
        post(path, KEY, forwarded)
    }
}

fn post(path: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: gateway.example\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
