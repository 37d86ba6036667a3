//! OpenClaw's failures become ours, with nothing of its words.

use minigate_tests::{
    client::say,
    media::{png, with_attachment},
};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![each_failure_has_its_code, broken_answers, nobody_there, a_drain_says_when_to_come_back]
}

async fn each_failure_has_its_code(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for (case, status, code) in [
        ("provider400", 400, "upstream_refused_request"),
        ("provider401", 502, "model_unavailable"),
        ("provider403", 502, "model_unavailable"),
        ("provider404", 502, "model_unavailable"),
        ("provider429", 503, "upstream_overloaded"),
        ("provider503", 503, "upstream_overloaded"),
        ("provider_timeout", 504, "upstream_timeout"),
        ("provider_error", 502, "upstream_error"),
        ("internal", 502, "upstream_error"),
        ("unauthorized", 502, "upstream_misconfigured"),
        ("proxy", 502, "upstream_misconfigured"),
        ("locked_out", 502, "upstream_misconfigured"),
        ("agents", 502, "upstream_misconfigured"),
        ("too_large", 413, "body_too_large"),
    ] {
        for with_picture in [false, true] {
            let text = format!("[[up:fail={case}]]");
            let body =
                if with_picture { with_attachment(&text, "image", None, None, &png(0)) } else { say(&text) };
            let answer = client.chat(&body).await;
            assert_eq!(answer.error(), (status, code.to_owned()), "{case} {with_picture}: {}", answer.text);
            for word in [
                "stub",
                "Incorrect",
                "provider error",
                "Unauthorized",
                "attribution",
                "Multiple agents",
                "suspending",
            ] {
                assert!(!answer.text.contains(word), "{case}: an upstream's word: {}", answer.text);
            }
            assert_eq!(
                answer.json()["error"]["type"].as_str(),
                Some(if status == 413 { "invalid_request" } else { "upstream" })
            );
        }
    }
}

async fn broken_answers(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for (directive, code) in
        [("html", "upstream_protocol"), ("truncate", "upstream_protocol"), ("empty", "upstream_empty")]
    {
        let answer = client.chat(&say(&format!("[[up:{directive}]]"))).await;
        assert_eq!(answer.error(), (502, code.to_owned()), "{directive}: {}", answer.text);
        assert_eq!(answer.json()["error"]["retryable"], true);
    }
    // Whether a connection that is closed before the head counts as unreachable or as broken
    // off is the platform's to say.
    let (status, code) = client.chat(&say("[[up:reset]]")).await.error();
    assert_eq!(status, 502);
    assert!(matches!(code.as_str(), "upstream_protocol" | "upstream_unreachable"), "{code}");
}

async fn nobody_there(scene: Scene) {
    let client = scene.client(Setup::Alone);
    let answer = client.chat(&say("x")).await;
    assert_eq!(answer.error(), (502, "upstream_unreachable".to_owned()), "{}", answer.text);
    let mut body = say("x");
    body["stream"] = true.into();
    assert_eq!(client.chat(&body).await.error(), (502, "upstream_unreachable".to_owned()));
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["checks"]["openclaw"], "failed");
    assert_eq!(ready.json()["checks"]["store"], "ok");
    assert_eq!(client.get("/healthz").await.status, 200, "the process itself is alive");
}

async fn a_drain_says_when_to_come_back(scene: Scene) {
    let answer = scene.client(Setup::Plain).chat(&say("[[up:status=draining]]")).await;
    assert_eq!(answer.error(), (503, "upstream_overloaded".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
}
