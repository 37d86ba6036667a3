//! Pictures and files: where they go, that they arrive as they were, and how each bad one
//! is refused.

use minigate_tests::{
    client::say,
    media::{encode, pdf, png, with_attachment},
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_picture_arrives_byte_for_byte,
        a_ten_megabyte_picture_passes,
        files_go_with_their_type_and_name,
        picture_parts_of_messages,
        a_data_uri_is_accepted,
        each_bad_attachment_is_named,
        limits_are_openclaws,
    ]
}

async fn a_picture_arrives_byte_for_byte(scene: Scene) {
    let marker = scene.marker("picture");
    let bytes = png(1_000_000);
    let body = with_attachment(&marker, "image", Some("image/jpeg"), None, &bytes);
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("echo: {marker}"));
    let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
    assert_eq!(seen.path, "/v1/responses");
    let content = json!([
        {"type": "input_text", "text": marker},
        {"type": "input_image", "source": {"type": "base64", "media_type": "image/png", "data": encode(&bytes)}},
    ]);
    assert_eq!(seen.body["input"], json!([{"type": "message", "role": "user", "content": content}]));
}

async fn a_ten_megabyte_picture_passes(scene: Scene) {
    let marker = scene.marker("ten-mb");
    let bytes = png(10 * 1024 * 1024 - 200);
    let answer =
        scene.client(Setup::Plain).chat(&with_attachment(&marker, "image", None, None, &bytes)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
    assert_eq!(seen.newest()[1]["source"]["data"], encode(&bytes));
}

async fn files_go_with_their_type_and_name(scene: Scene) {
    let cases = [
        ("pdf", Some("application/pdf"), "报告.pdf", pdf(2, "words"), "application/pdf"),
        ("md", None, "/tmp/x/notes.md", b"# title".to_vec(), "text/markdown"),
        ("yaml", Some("application/x-yaml"), "c.yaml", b"a: 1".to_vec(), "text/plain"),
        ("csv", Some("text/csv"), "t.csv", "名,值".as_bytes().to_vec(), "text/csv"),
        ("octets", Some("application/octet-stream"), "p.pdf", pdf(1, "words"), "application/pdf"),
    ];
    for (name, mime, file, bytes, expected) in cases {
        let marker = scene.marker(&format!("file-{name}"));
        let answer = scene
            .client(Setup::Plain)
            .chat(&with_attachment(&marker, "file", mime, Some(file), &bytes))
            .await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
        let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
        let part = &seen.newest()[1];
        assert_eq!(part["type"], "input_file", "{name}");
        assert_eq!(part["source"]["media_type"], expected, "{name}");
        assert_eq!(part["source"]["filename"], file.rsplit('/').next().unwrap(), "{name}");
        assert_eq!(part["source"]["data"], encode(&bytes), "{name}");
    }
}

async fn picture_parts_of_messages(scene: Scene) {
    let marker = scene.marker("parts");
    let picture = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", encode(&png(9000)))}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let body = json!({"messages": [{"role": "user", "content": [picture, text("before")]},
                                   {"role": "assistant", "content": "ok"},
                                   {"role": "user", "content": [text(&marker), picture]}]});
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_eq!(answer.json()["warnings"][0]["code"], "earlier_media_ignored", "{}", answer.text);
    let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
    assert_eq!(seen.body["input"][0]["content"], "before");
    assert_eq!(seen.newest()[1]["source"]["data"], encode(&png(9000)));
}

async fn a_data_uri_is_accepted(scene: Scene) {
    let marker = scene.marker("data-uri");
    let mut body = say(&marker);
    body["attachments"] =
        json!([{"type": "image", "data": format!("data:image/png;base64,{}", encode(&png(0)))}]);
    assert_eq!(scene.client(Setup::Plain).chat(&body).await.status, 200);
    let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
    assert_eq!(seen.newest()[1]["source"]["data"], encode(&png(0)));
}

async fn each_bad_attachment_is_named(scene: Scene) {
    let good = json!({"type": "image", "data": encode(&png(0))});
    let cases: [(Value, u16, &str); 12] = [
        (json!({"type": "image"}), 400, "attachment_data_missing"),
        (json!({"type": "image", "url": "wxfile://tmp_a.png"}), 400, "attachment_local_path"),
        (json!({"type": "file", "url": "http://tmp/b.pdf", "name": "b.pdf"}), 400, "attachment_local_path"),
        (json!({"type": "file", "url": "https://cdn.example/b.pdf"}), 400, "attachment_url_unsupported"),
        (json!({"type": "image", "data": "not base64!"}), 400, "attachment_base64_invalid"),
        (json!({"type": "image", "data": "AAA"}), 400, "attachment_base64_invalid"),
        (json!({"type": "image", "data": 7}), 400, "attachment_base64_invalid"),
        (json!({"type": "image", "data": encode(b"hello there")}), 415, "attachment_type_unsupported"),
        (json!({"type": "video", "data": encode(b"hello there")}), 415, "attachment_type_unsupported"),
        (
            json!({"type": "image", "mimeType": "image/png", "data": encode(&pdf(1, "x"))}),
            415,
            "attachment_type_mismatch",
        ),
        (
            json!({"type": "file", "mimeType": "application/pdf", "data": encode(&png(0))}),
            415,
            "attachment_type_mismatch",
        ),
        (
            json!({"type": "file", "name": "a.txt", "data": encode(b"\xff\xfe\x00a")}),
            400,
            "attachment_text_invalid",
        ),
    ];
    for (bad, status, code) in cases {
        let mut body = say("x");
        body["attachments"] = json!([good, bad]);
        let answer = scene.client(Setup::Plain).chat(&body).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{bad}: {}", answer.text);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("attachments[1]"), "{message}");
    }
}

async fn limits_are_openclaws(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let cases: [(Value, u16, &str, &str); 5] = [
        (
            with_attachment("x", "image", None, None, &png(10 * 1024 * 1024)),
            413,
            "attachment_too_large",
            "10485760",
        ),
        (
            with_attachment("x", "file", None, Some("a.txt"), &vec![b'a'; 5 * 1024 * 1024 + 1]),
            413,
            "attachment_too_large",
            "5242880",
        ),
        (
            with_attachment("x", "file", None, None, "字".repeat(60_001).as_bytes()),
            413,
            "attachment_text_too_long",
            "60000",
        ),
        (with_attachment("x", "file", None, None, &pdf(5, "p")), 413, "attachment_too_many_pages", "is 4"),
        (
            json!({"messages": [{"role": "user", "content": "x"}],
                   "attachments": vec![json!({"type": "image", "data": encode(&png(0))}); 9]}),
            400,
            "too_many_attachments",
            "is 8",
        ),
    ];
    for (body, status, code, limit) in cases {
        let answer = client.chat(&body).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{}", answer.text);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(limit), "{}", answer.text);
    }
}
