//! Bad input: each kind gets its status and code, in one shape.

use minigate_tests::client::{KEY, say, whole};
use serde_json::json;

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        bad_bodies,
        bad_messages,
        a_missing_or_wrong_key,
        not_json_by_its_label,
        too_many_bytes,
        a_chunked_body_is_read_and_counted,
        unknown_routes_and_methods,
        errors_speak_the_clients_language,
        a_rate_limit,
    ]
}

async fn bad_bodies(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let user = r#""messages":[{"role":"user","content":"x"}]"#;
    let bodies: Vec<(String, &str)> = vec![
        (String::new(), "invalid_json"),
        ("not json".into(), "invalid_json"),
        ("{\"messages\":[".into(), "invalid_json"),
        ("[]".into(), "invalid_json"),
        (deep, "invalid_json"),
        (format!("{{{user},{user}}}"), "invalid_json"),
        (r#"{"messages":{"role":"user"}}"#.into(), "invalid_json"),
        (format!("{{{user},\"stream\":\"yes\"}}"), "invalid_json"),
        (format!("{{{user},\"attachments\":{{}}}}"), "invalid_json"),
        (format!("{{{user}}} trailing"), "invalid_json"),
        (format!("{{{user},\"model\":\"gpt-4o\"}}"), "model_not_allowed"),
        (format!("{{{user},\"user\":\"{}\"}}", "u".repeat(129)), "user_invalid"),
        (format!("{{{user},\"user\":\"a\\u0000b\"}}"), "user_invalid"),
    ];
    for (body, code) in bodies {
        let shown: String = body.chars().take(80).collect();
        let answer = client.chat_with(&[], body).await;
        assert_eq!(answer.error(), (400, code.to_owned()), "{shown}: {}", answer.text);
        let json = answer.json();
        assert_eq!(json["error"]["type"], "invalid_request");
        assert_eq!(json["error"]["retryable"], false);
        assert_eq!(json["traceId"], answer.header("x-trace-id"));
        assert!(!json["answer"].as_str().unwrap().is_empty());
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
    }
    // Bytes that are not UTF-8.
    let answer =
        client.chat_with(&[], b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}".to_vec()).await;
    assert_eq!(answer.error(), (400, "invalid_json".to_owned()));
}

async fn bad_messages(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let many = vec![json!({"role": "user", "content": "x"}); 201];
    for (messages, code) in [
        (json!([]), "messages_empty"),
        (json!([{"role": "system", "content": "x"}]), "messages_empty"),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
            "last_message_not_user",
        ),
        (json!([{"role": "user", "content": ""}]), "message_empty"),
        (json!([{"role": "user", "content": null}]), "message_empty"),
        (json!([{"role": "user"}]), "message_empty"),
        (json!([{"role": "tool", "content": "x"}]), "unsupported_role"),
        (json!([{"role": "user", "content": 5}]), "unsupported_content"),
        (json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "unsupported_content"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}]),
            "unsupported_content",
        ),
        (json!(many), "too_many_messages"),
    ] {
        let answer = client.chat(&json!({"messages": messages})).await;
        assert_eq!(answer.error(), (400, code.to_owned()), "{}", answer.text);
    }
}

async fn a_missing_or_wrong_key(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let bearer = format!("Basic {KEY}");
    let cases: [&[(&str, &str)]; 5] = [
        &[],
        &[("x-api-key", "wrong")],
        &[("x-api-key", "")],
        &[("authorization", "Bearer wrong")],
        &[("authorization", &bearer)],
    ];
    for headers in cases {
        let answer = whole(client.send("POST", "/api/chat", headers, say("x").to_string()).await).await;
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{headers:?}");
        assert_eq!(answer.json()["error"]["type"], "authentication");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

async fn not_json_by_its_label(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("x-api-key", KEY), ("content-type", kind)];
        let answer = whole(client.send("POST", "/api/chat", &headers, say("x").to_string()).await).await;
        assert_eq!(answer.error(), (415, "unsupported_media_type".to_owned()), "{kind}");
    }
}

async fn too_many_bytes(scene: Scene) {
    let answer = scene.client(Setup::Plain).chat_with(&[], vec![b' '; 21 * 1024 * 1024]).await;
    assert_eq!(answer.error(), (413, "body_too_large".to_owned()), "{}", answer.text);
    assert!(answer.text.contains("20971520"));
}

async fn a_chunked_body_is_read_and_counted(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let chunked = |bytes: Vec<u8>| {
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
            bytes.chunks(64 * 1024).map(|piece| Ok(piece.to_vec())).collect();
        reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
    };
    let answer = client.chat_with(&[], chunked(say("chunked").to_string().into_bytes())).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "echo: chunked", "{}", answer.text);
    let answer = client.chat_with(&[], chunked(vec![b' '; 21 * 1024 * 1024])).await;
    assert_eq!(answer.error(), (413, "body_too_large".to_owned()));
}

async fn unknown_routes_and_methods(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for path in ["/", "/api", "/api/chat/", "/v1/chat/completion", "/%2e%2e/etc/passwd"] {
        let answer = client.get(path).await;
        assert_eq!(answer.error(), (404, "not_found".to_owned()), "{path}");
    }
    let answer = client.get("/api/chat").await;
    assert_eq!(answer.error(), (405, "method_not_allowed".to_owned()));
    assert_eq!(answer.header("allow"), "POST");
    assert_eq!(whole(client.send("POST", "/healthz", &[], "").await).await.header("allow"), "GET, HEAD");
    assert_eq!(client.get("/healthz?probe=1").await.status, 200, "a query string is passed over");
}

async fn errors_speak_the_clients_language(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let zh = client.chat_with(&[("accept-language", "zh-CN,en;q=0.5")], "{").await.json();
    let en = client.chat_with(&[("accept-language", "en-GB")], "{").await.json();
    assert!(zh["answer"].as_str().unwrap().contains('请'), "{zh}");
    assert!(en["answer"].as_str().unwrap().is_ascii(), "{en}");
    assert_eq!(zh["error"]["message"], en["error"]["message"]);
}

async fn a_rate_limit(scene: Scene) {
    let client = scene.client(Setup::Limited);
    let mut body = say("x");
    body["user"] = scene.marker("burst").into();
    for left in ["2", "1", "0"] {
        let answer = client.chat(&body).await;
        assert_eq!((answer.status, answer.header("ratelimit-remaining")), (200, left), "{}", answer.text);
        assert_eq!(answer.header("ratelimit-limit"), "3");
    }
    let refused = client.chat(&body).await;
    assert_eq!(refused.error(), (429, "rate_limited".to_owned()));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(refused.json()["error"]["retryable"], true);
    body["user"] = scene.marker("other").into();
    assert_eq!(client.chat(&body).await.status, 200, "another user is not held up");
    body["user"] = scene.marker("burst").into();
    let again = std::time::Duration::from_secs(60);
    minigate_tests::until("a token to come back", again, || async { client.chat(&body).await.status == 200 })
        .await;
}
