//! Logins end to end: who a caller is may come from WeChat, from an older token or from the
//! team's own backend, and from nowhere else. The core's tests show the decisions; these show
//! that both hosts carry them out, and that what WeChat says goes no further than the gateway.

use std::time::{Duration, SystemTime};

use minigate_core::policy::session::{self, Claims, SigningKey};
use minigate_tests::{
    client::{Answer, Client, KEY, say, whole},
    hosts::{Host, Kind},
    upstream::TOKEN,
    wechat::{CANARIES, Fault, LOGIN, RISK_RANK, STABLE_TOKEN, Wechat, openid},
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_login_opens_the_chat,
        a_login_that_says_more_or_less,
        a_token_is_one_person_whatever_the_body_says,
        every_errcode_has_its_status_and_code,
        what_is_no_code_is_not_asked_about,
        a_code_is_good_once,
        a_wechat_that_fails,
        a_wechat_that_hangs,
        a_token_is_renewed_within_its_bound,
        only_a_token_is_renewed,
        a_revocation_takes_effect_at_once,
        only_an_operator_revokes,
        a_backend_names_its_people,
        keys_rotate_between_hosts,
        a_key_is_revoked_while_the_host_runs,
        logins_of_an_address_are_limited,
        without_settings_there_is_no_login,
        a_risky_person_is_kept_out_or_slowed,
        nothing_secret_is_written,
    ]
}

pub(crate) const APPID: &str = "wx0123456789abcdef";
pub(crate) const APP_SECRET: &str = "AppSecretCanary0f1e2d3c4b5a6978";
/// Two secrets, of which the first signs; and the same after a rotation.
pub(crate) const SECRETS: &str = "token-secret-canary-one-5b1f, token-secret-canary-old-90aa";
pub(crate) const SECRETS_ROTATED: &str =
    "token-secret-canary-two-c3d7, token-secret-canary-one-5b1f, token-secret-canary-leaked-24be";
const SIGNING: &str = "token-secret-canary-one-5b1f";
/// Believed after the rotation, until a scenario revokes it.
const LEAKED: &str = "token-secret-canary-leaked-24be";
const SERVER_KEY: &str = "server-key-canary-1a9d";
const ADMIN_KEY: &str = "admin-key-canary-e7f2";

/// What a host of these scenarios is started with.
pub(crate) fn settings(per_login: &'static str, secrets: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("MINIGATE_ENV", "prod"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("RATE_LIMIT_PER_LOGIN", per_login),
        ("CHAT_MEMORY", "gateway"),
        ("SESSION_SECRET", crate::SESSION_SECRET),
        ("SESSION_LIFE_SECONDS", "600"),
        ("SESSION_RENEWABLE_SECONDS", "86400"),
        ("WECHAT_APPID", APPID),
        ("WECHAT_SECRET", APP_SECRET),
        ("TOKEN_SECRET", secrets),
        ("SERVER_KEY", SERVER_KEY),
        ("ADMIN_KEY", ADMIN_KEY),
    ]
}

async fn post(client: &Client, path: &str, bearer: Option<&str>, body: &Value) -> Answer {
    let bearer = bearer.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(bearer.iter().map(|value| ("authorization", value.as_str())));
    whole(client.send("POST", path, &headers, body.to_string()).await).await
}

async fn login(client: &Client, code: &str) -> Answer {
    post(client, "/v1/mini/login", None, &json!({"code": code})).await
}

async fn renew(client: &Client, token: &str) -> Answer {
    post(client, "/v1/mini/token/renew", Some(token), &json!({})).await
}

async fn chat(client: &Client, token: &str, text: &str) -> Answer {
    post(client, "/api/chat", Some(token), &say(text)).await
}

async fn revoke(client: &Client, key: &str, body: &Value) -> Answer {
    post(client, "/v1/admin/sessions/revoke", Some(key), body).await
}

#[track_caller]
fn field(answer: &Answer, name: &str) -> String {
    let text = answer.json()[name].as_str().map(str::to_owned);
    text.unwrap_or_else(|| panic!("no {name} in {}: {}", answer.status, answer.text))
}

#[track_caller]
fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    field(answer, "token")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token that the host would have made at other times.
fn minted(subject: &str, issued_s: u64, login_s: u64) -> String {
    minted_by(SIGNING, subject, issued_s, login_s)
}

fn minted_by(secret: &str, subject: &str, issued_s: u64, login_s: u64) -> String {
    let claims = Claims {
        subject: subject.into(),
        role: String::new(),
        environment: "prod".into(),
        issued_s,
        expires_s: issued_s + 600,
        login_s,
    };
    session::mint(&[SigningKey::derive(secret.as_bytes())], &claims).expect("a token")
}

fn asked_about(scene: &Scene, code: &str) -> usize {
    let asked = scene.wechat().requests_to(LOGIN).into_iter();
    asked.filter(|seen| seen.query.contains(&format!("js_code={code}&"))).count()
}

async fn a_login_opens_the_chat(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let name = scene.marker("opens");
    let code = format!("good-{name}");
    let before = now_s();
    let answer = login(&client, &code).await;
    let after = now_s();
    let token = token(&answer);
    let body = answer.json();
    assert_eq!((&body["tokenType"], &body["expiresIn"]), (&json!("Bearer"), &json!(600)));
    let expires = body["expiresAt"].as_u64().unwrap();
    assert!((before + 600..=after + 600).contains(&expires), "{body}");
    assert_eq!(body["renewableUntil"].as_u64().unwrap(), expires - 600 + 86_400);
    assert_eq!(answer.header("cache-control"), "no-store");
    // Exactly what WeChat documents, and the secret once.
    let seen = scene.wechat().wait_for(LOGIN, "the login", |seen| seen.query.contains(&name)).await;
    assert_eq!(seen.method, "GET");
    assert_eq!(
        seen.query,
        format!("appid={APPID}&js_code={code}&grant_type=authorization_code&secret={APP_SECRET}")
    );
    assert!(seen.raw.is_empty());

    let text = scene.marker("opens-chat");
    let answer = chat(&client, &token, &text).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("echo: {text}"));
    let seen = scene.upstream().wait_for(&text, "the turn", |_| true).await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    let key = seen.header("x-openclaw-session-key").expect("a session");
    assert!(key.starts_with("mg-") && key.len() == 67, "{key}");
    let sent = format!("{seen:?}");
    for word in [token.as_str(), openid(&name).as_str(), &code, APP_SECRET] {
        assert!(!sent.contains(word), "{word} went to OpenClaw");
    }
}

async fn a_login_that_says_more_or_less(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let union = login(&client, &format!("good-union{}", scene.marker("more"))).await;
    assert_eq!(union.status, 200, "{}", union.text);
    let zero = login(&client, &format!("zero-{}", scene.marker("less"))).await;
    assert_eq!(zero.status, 200, "an errcode of 0 is none: {}", zero.text);
    for answer in [union, zero] {
        assert!(CANARIES.iter().all(|canary| !answer.text.contains(canary)), "{}", answer.text);
    }
}

async fn a_token_is_one_person_whatever_the_body_says(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let [a, b] = [scene.marker("person-a"), scene.marker("person-b")];
    let first = login(&client, &format!("good-{a}")).await;
    let again = login(&client, &format!("good-{a}~2")).await;
    let other = login(&client, &format!("good-{b}")).await;
    assert_eq!(field(&first, "subject"), field(&again, "subject"), "one person");
    assert_ne!(field(&first, "subject"), field(&other, "subject"), "two persons");
    let mut keys = Vec::new();
    for (index, (answer, user)) in [(&first, None), (&again, Some(&b)), (&other, Some(&a))].iter().enumerate()
    {
        let text = format!("{}-{index}.", scene.marker("whose"));
        let mut body = say(&text);
        if let Some(user) = user {
            body["user"] = user.as_str().into();
        }
        let answer = post(&client, "/api/chat", Some(&token(answer)), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let seen = scene.upstream().wait_for(&text, "the turn", |_| true).await;
        keys.push(seen.header("x-openclaw-session-key").expect("a session").to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    // Whoever has only the shared key and calls itself by the subject is somebody else.
    let text = format!("{}.", scene.marker("whose-subject"));
    let mut body = say(&text);
    body["user"] = field(&first, "subject").into();
    assert_eq!(client.chat(&body).await.status, 200);
    let seen = scene.upstream().wait_for(&text, "the turn", |_| true).await;
    assert_ne!(seen.header("x-openclaw-session-key"), Some(keys[0].as_str()));
}

async fn every_errcode_has_its_status_and_code(scene: Scene) {
    let client = scene.client(Setup::Logins);
    for (errcode, status, code, retryable) in [
        (-1, 503, "wechat_unavailable", true),
        (40029, 401, "login_code_invalid", false),
        (41008, 401, "login_code_invalid", false),
        (40163, 401, "login_code_used", false),
        (40226, 403, "login_blocked", false),
        (45011, 429, "rate_limited", true),
        (40013, 502, "wechat_misconfigured", false),
        (40125, 502, "wechat_misconfigured", false),
        (40164, 502, "wechat_misconfigured", false),
        (41002, 502, "wechat_misconfigured", false),
        (41004, 502, "wechat_misconfigured", false),
        (0, 503, "wechat_unavailable", true),
        (99_999, 503, "wechat_unavailable", true),
    ] {
        let answer = login(&client, &format!("errcode-{errcode}")).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{errcode}: {}", answer.text);
        let json = answer.json();
        assert_eq!(json["error"]["retryable"], retryable, "{errcode}");
        let words = json["answer"].as_str().unwrap();
        assert!(!words.is_empty() && !words.contains(&errcode.to_string()), "{errcode}: {words}");
        assert!(CANARIES.iter().all(|canary| !answer.text.contains(canary)), "{}", answer.text);
        assert!(!answer.text.contains("10.9.8.7"), "the gateway's address is nobody's business");
        let waits = matches!(errcode, -1 | 45011 | 0 | 99_999);
        assert_eq!(!answer.header("retry-after").is_empty(), waits, "{errcode}: {:?}", answer.headers);
    }
}

async fn what_is_no_code_is_not_asked_about(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let before = asked_about(&scene, "x");
    for (body, status, code) in [
        (json!({}), 400, "invalid_json"),
        (json!([]), 400, "invalid_json"),
        (json!(["x"]), 400, "invalid_json"),
        (json!({"code": 1}), 400, "invalid_json"),
        (json!({"code": null}), 400, "invalid_json"),
        (json!({"code": ""}), 401, "login_code_invalid"),
        (json!({"code": "x y"}), 401, "login_code_invalid"),
        (json!({"code": "x\u{0}"}), 401, "login_code_invalid"),
        (json!({"code": "x".repeat(513)}), 401, "login_code_invalid"),
        (json!({"code": "x".repeat(20_000)}), 413, "body_too_large"),
    ] {
        let answer = post(&client, "/v1/mini/login", None, &body).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{}", answer.text);
    }
    assert_eq!(asked_about(&scene, "x"), before);
    // A code that would say more than itself stays one parameter.
    let name = scene.marker("inject");
    let code = format!("good-{name}&appid=wxother&secret=guess#");
    let _ = login(&client, &code).await;
    let seen = scene.wechat().wait_for(LOGIN, "the code", |seen| seen.query.contains(&name)).await;
    assert_eq!((seen.query.matches("appid=").count(), seen.query.matches("secret=").count()), (1, 1));
}

async fn a_code_is_good_once(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let code = format!("good-{}", scene.marker("once"));
    token(&login(&client, &code).await);
    for _ in 0..3 {
        assert_eq!(login(&client, &code).await.error(), (401, "login_code_used".to_owned()));
    }
    assert_eq!(asked_about(&scene, &code), 1, "what WeChat remembers of it does not matter");
    // A host that has not seen the code finds out from WeChat.
    let elsewhere = scene.client(Setup::Rotated);
    assert_eq!(login(&elsewhere, &code).await.error(), (401, "login_code_used".to_owned()));
    assert_eq!(asked_about(&scene, &code), 2);
    // Of many at once one gets in.
    let code = format!("good-{}", scene.marker("race"));
    let answers = futures_util::future::join_all((0..8).map(|_| login(&client, &code))).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1, "{answers:?}");
    assert_eq!(asked_about(&scene, &code), 1);
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(lost.error(), (401, "login_code_used".to_owned()));
    }
}

async fn a_wechat_that_fails(scene: Scene) {
    let client = scene.client(Setup::Logins);
    for code in ["http-502", "http-403", "http-302", "garbage"] {
        let answer = login(&client, code).await;
        assert_eq!(answer.error(), (503, "wechat_unavailable".to_owned()), "{code}: {}", answer.text);
        assert!(!answer.header("retry-after").is_empty(), "{code}");
        assert!(!answer.text.contains(minigate_tests::wechat::ERRMSG), "{}", answer.text);
        // It can be sent again: whether it was used up over there, WeChat will say.
        assert_eq!(login(&client, code).await.error(), (503, "wechat_unavailable".to_owned()), "{code}");
    }
}

async fn a_wechat_that_hangs(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let code = format!("hang-{}", scene.marker("x"));
    let began = tokio::time::Instant::now();
    let answer = login(&client, &code).await;
    assert_eq!(answer.error(), (503, "wechat_unavailable".to_owned()), "{}", answer.text);
    let took = began.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(20)).contains(&took), "{took:?}");
    let marker = format!("js_code={code}&");
    let aborted = |seen: &minigate_tests::scripted::Seen| seen.aborted && seen.query.contains(&marker);
    scene.wechat().wait_for(LOGIN, "the end of the request", aborted).await;
}

async fn a_token_is_renewed_within_its_bound(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let first = login(&client, &format!("good-{}", scene.marker("renewed"))).await;
    let subject = field(&first, "subject");
    let renewed = renew(&client, &token(&first)).await;
    let newer = token(&renewed);
    assert_eq!(field(&renewed, "subject"), subject);
    assert_eq!(renewed.json()["renewableUntil"], first.json()["renewableUntil"], "counts from the login");
    assert_eq!(chat(&client, &newer, "x").await.status, 200);
    // One that has had its time opens nothing, and is renewed.
    let now = now_s();
    let expired = minted(&subject, now - 3_600, now - 3_600);
    assert_eq!(chat(&client, &expired, "x").await.error(), (401, "token_expired".to_owned()));
    let renewed = renew(&client, &expired).await;
    assert_eq!(renewed.json()["renewableUntil"], now - 3_600 + 86_400, "{}", renewed.text);
    assert_eq!(chat(&client, &token(&renewed), "x").await.status, 200);
    // Up to the bound, and not a second longer; even one that was renewed a moment ago.
    assert_eq!(renew(&client, &minted(&subject, now - 60, now - 86_400 + 60)).await.status, 200);
    for token in [minted(&subject, now - 60, now - 86_400), minted(&subject, now - 90_000, now - 90_000)] {
        assert_eq!(renew(&client, &token).await.error(), (401, "token_expired".to_owned()));
    }
}

async fn only_a_token_is_renewed(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let genuine = token(&login(&client, &format!("good-{}", scene.marker("only"))).await);
    let changed = format!("{}A", &genuine[..genuine.len() - 1]);
    for bearer in ["", "x", "a.b.c", KEY, SERVER_KEY, ADMIN_KEY, TOKEN, changed.as_str()] {
        let answer = renew(&client, bearer).await;
        // One in 64 signatures ends in that letter anyway.
        if bearer != genuine {
            assert_eq!(answer.error(), (401, "token_invalid".to_owned()), "{}", answer.text);
        }
    }
    let answer = post(&client, "/v1/mini/token/renew", None, &json!({"token": genuine})).await;
    assert_eq!(answer.error(), (401, "token_invalid".to_owned()));
    for path in ["/v1/mini/token", "/v1/admin/sessions/revoke"] {
        let answer = post(&client, path, Some(&genuine), &json!({"userId": "u"})).await;
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{path}");
    }
}

async fn a_revocation_takes_effect_at_once(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let name = scene.marker("revoked");
    let first = login(&client, &format!("good-{name}")).await;
    let bystander = token(&login(&client, &format!("good-{name}-other")).await);
    let (first_token, subject) = (token(&first), field(&first, "subject"));
    let second_token = token(&renew(&client, &first_token).await);
    let now = now_s();
    let expired = minted(&subject, now - 3_600, now - 3_600);
    assert_eq!(chat(&client, &first_token, "x").await.status, 200);

    let answer = revoke(&client, ADMIN_KEY, &json!({"subject": subject})).await;
    assert_eq!((answer.status, answer.json()["revoked"].clone()), (200, json!(true)), "{}", answer.text);
    for token in [&first_token, &second_token] {
        let text = scene.marker("after-revocation");
        assert_eq!(chat(&client, token, &text).await.error(), (401, "token_invalid".to_owned()));
        assert_eq!(renew(&client, token).await.error(), (401, "token_invalid".to_owned()));
        assert!(scene.upstream().seen(&text).is_empty(), "OpenClaw is not asked");
    }
    // A host whose clock is ahead may have renewed it for a time after the revocation.
    for token in [expired, minted(&subject, now + 30, now - 60)] {
        assert_eq!(chat(&client, &token, "x").await.status, 401);
        assert_eq!(renew(&client, &token).await.error(), (401, "token_invalid".to_owned()));
    }
    assert_eq!(chat(&client, &bystander, "x").await.status, 200, "others stay");
    // A login after it counts; one of the same second may have been meant.
    let count = std::cell::Cell::new(0);
    minigate_tests::until("a new login", Duration::from_secs(10), async || {
        count.set(count.get() + 1);
        let again = token(&login(&client, &format!("good-{name}~{}", count.get())).await);
        chat(&client, &again, "x").await.status == 200
    })
    .await;
}

async fn only_an_operator_revokes(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let first = login(&client, &format!("good-{}", scene.marker("kept"))).await;
    let (token, subject) = (token(&first), field(&first, "subject"));
    for key in ["", "x", KEY, SERVER_KEY, TOKEN, token.as_str()] {
        let answer = revoke(&client, key, &json!({"subject": subject})).await;
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{}", answer.text);
    }
    for body in [
        json!({}),
        json!([subject]),
        json!({"subject": "*"}),
        json!({"subject": "x".repeat(32)}),
        json!({"subject": subject, "userId": "u"}),
        json!({"subject": [subject]}),
    ] {
        let answer = revoke(&client, ADMIN_KEY, &body).await;
        assert_eq!(answer.error(), (400, "invalid_json".to_owned()), "{body}: {}", answer.text);
    }
    assert_eq!(chat(&client, &token, "x").await.status, 200);
}

async fn a_backend_names_its_people(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let user = scene.marker("backend-user-canary");
    let body = json!({"userId": user, "role": "vip"});
    let issued = post(&client, "/v1/mini/token", Some(SERVER_KEY), &body).await;
    let issued_token = token(&issued);
    assert_eq!(issued.json()["role"], "vip");
    assert!(!issued.text.contains(&user), "a token is readable: {}", issued.text);
    assert_eq!(chat(&client, &issued_token, "x").await.status, 200);
    assert_eq!(token(&renew(&client, &issued_token).await).split('.').count(), 3);
    for key in ["", KEY, ADMIN_KEY, TOKEN, issued_token.as_str()] {
        let answer = post(&client, "/v1/mini/token", Some(key), &body).await;
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{}", answer.text);
    }
    for (body, code) in [
        (json!({"userId": ""}), "user_invalid"),
        (json!({"userId": "u".repeat(257)}), "user_invalid"),
        (json!({"userId": "u", "role": "Root Admin"}), "user_invalid"),
        (json!({"userId": 1}), "invalid_json"),
        (json!(["u", "vip"]), "invalid_json"),
        (json!({}), "invalid_json"),
    ] {
        let answer = post(&client, "/v1/mini/token", Some(SERVER_KEY), &body).await;
        assert_eq!(answer.error(), (400, code.to_owned()), "{body}: {}", answer.text);
    }
    // The backend's u and WeChat's u are two persons.
    let name = scene.marker("namesake");
    let by_wechat = login(&client, &format!("good-{name}")).await;
    let body = json!({"userId": openid(&name)});
    let by_backend = post(&client, "/v1/mini/token", Some(SERVER_KEY), &body).await;
    assert_ne!(field(&by_wechat, "subject"), field(&by_backend, "subject"));
    // Revoked by the name that the backend knows.
    let answer = revoke(&client, ADMIN_KEY, &json!({"userId": user})).await;
    assert_eq!(answer.json()["subject"], issued.json()["subject"], "{}", answer.text);
    assert_eq!(chat(&client, &issued_token, "x").await.error(), (401, "token_invalid".to_owned()));
}

async fn keys_rotate_between_hosts(scene: Scene) {
    let (before, after) = (scene.client(Setup::Logins), scene.client(Setup::Rotated));
    let name = scene.marker("rotates");
    let old = login(&before, &format!("good-{name}")).await;
    let new = login(&after, &format!("good-{name}~2")).await;
    assert_eq!(field(&old, "subject"), field(&new, "subject"), "the person stays the same");
    assert_eq!(chat(&after, &token(&old), "x").await.status, 200, "the new host believes the old key");
    let renewed = token(&renew(&after, &token(&old)).await);
    // The first host does not know the key of the second.
    for token in [token(&new), renewed.clone()] {
        assert_eq!(chat(&before, &token, "x").await.error(), (401, "token_invalid".to_owned()));
    }
    // The other kind of host with the same settings takes them all.
    let other = if scene.kind == Kind::Native { Kind::Edge } else { Kind::Native };
    let twin = Scene { kind: other, ..scene.clone() }.client(Setup::Rotated);
    for token in [token(&old), token(&new), renewed] {
        assert_eq!(chat(&twin, &token, "x").await.status, 200);
    }
}

async fn a_key_is_revoked_while_the_host_runs(scene: Scene) {
    let client = scene.client(Setup::Rotated);
    let now = now_s();
    let subject = "ab".repeat(16);
    let leaked = minted_by(LEAKED, &subject, now, now);
    let genuine = minted(&subject, now, now);
    assert_eq!(chat(&client, &leaked, "x").await.status, 200);
    let id = SigningKey::derive(LEAKED.as_bytes()).id;
    for key in ["", KEY, SERVER_KEY, leaked.as_str()] {
        let answer = revoke(&client, key, &json!({"keyId": id})).await;
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{}", answer.text);
    }
    assert_eq!(chat(&client, &leaked, "x").await.status, 200);
    let answer = revoke(&client, ADMIN_KEY, &json!({"keyId": id})).await;
    assert_eq!(answer.json(), json!({"revoked": true, "keyId": id, "known": true}), "{}", answer.text);
    // Whatever is signed with it, before or after.
    let later = minted_by(LEAKED, &"cd".repeat(16), now + 30, now + 30);
    let expired = minted_by(LEAKED, &subject, now - 3_600, now - 3_600);
    for token in [&leaked, &later] {
        let text = scene.marker("after-the-key");
        assert_eq!(chat(&client, token, &text).await.error(), (401, "token_invalid".to_owned()));
        assert!(scene.upstream().seen(&text).is_empty(), "OpenClaw is not asked");
    }
    for token in [&leaked, &later, &expired] {
        assert_eq!(renew(&client, token).await.error(), (401, "token_invalid".to_owned()));
    }
    // The same person by another key, and new logins, go on.
    assert_eq!(chat(&client, &genuine, "x").await.status, 200);
    assert_eq!(renew(&client, &genuine).await.status, 200);
    assert_eq!(login(&client, &format!("good-{}", scene.marker("after-the-key"))).await.status, 200);
}

/// The header by which a host learns a client's address in a test: the connection is always
/// from this machine. For the native host it is a proxy that is trusted; on the edge the
/// platform says it.
fn address(kind: Kind) -> &'static str {
    match kind {
        Kind::Native => "x-forwarded-for",
        Kind::Edge => "cf-connecting-ip",
    }
}

async fn logins_of_an_address_are_limited(scene: Scene) {
    let client = scene.client(Setup::Shut);
    let from = async |ip: &str, code: &str| {
        let headers = [("content-type", "application/json"), (address(scene.kind), ip)];
        let body = json!({"code": code}).to_string();
        whole(client.send("POST", "/v1/mini/login", &headers, body).await).await
    };
    for code in ["limited-1", "limited-2"] {
        let answer = from("203.0.113.7", code).await;
        assert_eq!(answer.error(), (503, "wechat_unavailable".to_owned()), "{}", answer.text);
    }
    let refused = from("203.0.113.7", "limited-3").await;
    assert_eq!(refused.error(), (429, "rate_limited".to_owned()), "{}", refused.text);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(from("203.0.113.8", "limited-4").await.status, 503, "another address is not held up");
    // An IPv6 subscriber has very many addresses, and is one.
    let addresses = [("2001:db8:7:7::1", 503), ("2001:db8:7:7::2", 503), ("2001:db8:7:7:a::3", 429)];
    for (index, (ip, status)) in addresses.into_iter().enumerate() {
        assert_eq!(from(ip, &format!("limited-v6-{index}")).await.status, status, "{ip}");
    }
}

async fn without_settings_there_is_no_login(scene: Scene) {
    let client = scene.client(Setup::Plain);
    assert_eq!(login(&client, "good-nobody").await.error(), (501, "login_unavailable".to_owned()));
    assert_eq!(renew(&client, "a.b.c").await.error(), (401, "token_invalid".to_owned()));
    for path in ["/v1/mini/token", "/v1/admin/sessions/revoke"] {
        for key in ["", KEY] {
            let answer = post(&client, path, Some(key), &json!({"userId": "u"})).await;
            assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{path}");
        }
    }
}

/// A login at a host, and its line in the log.
async fn logged(host: &Host, kind: Kind, code: &str) -> (Answer, Value) {
    let trace = format!("risk-{}", code.replace('~', "-"));
    let headers = [
        ("content-type", "application/json"),
        ("x-trace-id", trace.as_str()),
        (address(kind), "203.0.113.7"),
    ];
    let body = json!({"code": code}).to_string();
    let answer = whole(Client::new(&host.url).send("POST", "/v1/mini/login", &headers, body).await).await;
    let line = || host.records().into_iter().find(|record| record["traceId"] == trace.as_str());
    minigate_tests::until("the line", Duration::from_secs(10), async || line().is_some()).await;
    (answer, line().expect("it was there"))
}

async fn a_risky_person_is_kept_out_or_slowed(scene: Scene) {
    // Its own, which can be made to fail.
    let wechat = Wechat::start(APPID, APP_SECRET).await;
    let start = async |mode| {
        let mut settings = settings("0", SECRETS);
        settings.retain(|(name, _)| *name != "RATE_LIMIT_PER_MINUTE");
        settings.extend([
            ("WECHAT_API_URL", wechat.url()),
            ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
            ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
            ("API_KEY", KEY),
            ("RATE_LIMIT_PER_MINUTE", "60"),
            ("RISK_RANK", mode),
        ]);
        Host::start(scene.kind, &settings).await
    };
    let host = start("enforce").await;
    let (refused, line) = logged(&host, scene.kind, "good-rank4").await;
    assert_eq!(refused.error(), (403, "login_blocked".to_owned()), "{line}");
    assert_eq!((&line["riskRank"], &line["status"]), (&json!(4), &json!(403)));
    let seen = wechat.requests_to(RISK_RANK).pop().expect("it was asked");
    let expected = json!({"appid": APPID, "openid": openid("rank4"), "scene": 0, "client_ip": "203.0.113.7"});
    assert_eq!((seen.method.as_str(), &seen.body), ("POST", &expected));

    let mut left = Vec::new();
    for rank in ["rank1", "rank2"] {
        let (answer, line) = logged(&host, scene.kind, &format!("good-{rank}")).await;
        assert_eq!(format!("rank{}", line["riskRank"]), rank);
        let answer = chat(&Client::new(&host.url), &token(&answer), &scene.marker(rank)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        left.push(answer.header("ratelimit-remaining").parse::<u32>().expect("a number"));
    }
    assert_eq!(left[0] - left[1], 3, "a slowed person's request costs four times as much");
    assert_eq!(wechat.count(STABLE_TOKEN), 1, "the token is kept");

    // Whatever goes wrong, the login goes on.
    for (index, (fault, code)) in [
        (Fault::Errcode(48001), "wechat_misconfigured"),
        (Fault::Http(502), "wechat_unavailable"),
        (Fault::Hang, "wechat_unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        wechat.set_fault(RISK_RANK, fault);
        let (answer, line) = logged(&host, scene.kind, &format!("good-rank4~{index}")).await;
        token(&answer);
        assert_eq!((&line["riskUnknown"], &line["riskRank"]), (&json!(code), &Value::Null), "{fault:?}");
    }
    wechat.recover();
    // A token that another host made void is fetched anew.
    wechat.expire_token();
    let (refused, _) = logged(&host, scene.kind, "good-rank4~void").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(wechat.count(STABLE_TOKEN), 2);

    let logs = start("log").await;
    let (answer, line) = logged(&logs, scene.kind, "good-rank4~log").await;
    token(&answer);
    assert_eq!(line["riskRank"], 4);
    let asked = wechat.count(RISK_RANK);
    let off = start("off").await;
    let (answer, line) = logged(&off, scene.kind, "good-rank4~off").await;
    token(&answer);
    assert_eq!((&line["riskRank"], wechat.count(RISK_RANK)), (&Value::Null, asked));
    for host in [host, logs, off] {
        let output = host.output();
        assert!(CANARIES.iter().all(|canary| !output.contains(canary)), "{output}");
        host.stop().await;
    }
}

async fn nothing_secret_is_written(scene: Scene) {
    let client = scene.client(Setup::Logins);
    let name = scene.marker("code-canary-union");
    let code = format!("good-{name}");
    let mut shown = String::new();
    let mut secrets: Vec<String> = [APP_SECRET, SIGNING, SERVER_KEY, ADMIN_KEY, "token-secret-canary"]
        .into_iter()
        .chain(CANARIES)
        .map(str::to_owned)
        .collect();
    let first = login(&client, &code).await;
    let renewed = renew(&client, &token(&first)).await;
    let body = json!({"userId": "person-canary-66d1"});
    let issued = post(&client, "/v1/mini/token", Some(SERVER_KEY), &body).await;
    for answer in [&first, &renewed, &issued] {
        let token = token(answer);
        // The token itself is what the answer is for; nothing else of it is secret.
        shown.push_str(&answer.text.replace(&token, "…"));
        shown.push_str(&format!("{:?}", answer.headers));
        let signature = token.rsplit('.').next().unwrap().to_owned();
        secrets.extend([token, signature]);
    }
    // Everything that is answered or logged in between, failures above all.
    let token = token(&renewed);
    let changed = format!("{}x", &token[..token.len() - 1]);
    for answer in [
        login(&client, &code).await,
        login(&client, &format!("errcode-40125-{name}")).await,
        login(&client, &format!("garbage-{name}")).await,
        login(&client, &format!("http-500-{name}")).await,
        login(&scene.client(Setup::Shut), &code).await,
        chat(&client, &token, "x").await,
        chat(&client, &token, "x [[up:fail=unauthorized]]").await,
        chat(&client, &changed, "x").await,
        renew(&client, &changed).await,
        revoke(&client, ADMIN_KEY, &json!({"userId": "person-canary-66d1"})).await,
        revoke(&client, &token, &json!({"userId": "person-canary-66d1"})).await,
        post(&client, &format!("/v1/mini/login?code={code}&token={token}"), None, &json!({"code": 1})).await,
        post(&client, &format!("/{token}/{code}"), Some(&token), &json!({})).await,
        client.get("/version").await,
        client.get("/readyz").await,
    ] {
        shown.push_str(&answer.text);
        shown.push_str(&format!("{:?}", answer.headers));
    }
    secrets.extend([code, name, "person-canary-66d1".to_owned(), KEY.to_owned(), TOKEN.to_owned()]);
    // The line of the last request is written after its answer.
    let marker = scene.marker("last-line");
    let headers = [("content-type", "application/json"), ("x-trace-id", marker.as_str())];
    for setup in [Setup::Logins, Setup::Rotated, Setup::Shut] {
        whole(scene.client(setup).send("POST", "/v1/mini/login", &headers, "{}").await).await;
        let host = scene.host(setup);
        minigate_tests::until("the last line", Duration::from_secs(10), async || {
            host.output().contains(&marker)
        })
        .await;
        shown.push_str(&host.output());
    }
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()), "{secret} was written");
    }
}
