//! Pictures that WeChat looks at: it is told of an address, comes for the picture, and pushes what
//! it found, to the host that waits or to another one.

use std::time::{Duration, SystemTime};

use minigate_tests::{
    client::{Answer, Client, KEY, say, whole},
    hosts::{Host, Kind},
    media,
    redis::Redis,
    until,
    wechat::{CANARIES, ENCODING_AES_KEY, Fault, MEDIA_CHECK, MediaCheck, Push, Wechat},
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, load::host, logins, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        a_picture_is_fetched_judged_and_then_shown_to_the_agent,
        what_cannot_be_checked_is_the_settings_to_judge,
        only_logging_does_not_wait,
        a_push_that_is_not_signed_is_refused,
    ];
    all.extend(scenarios![for &[Kind::Native]; a_verdict_wakes_a_turn_on_another_host]);
    all
}

const PUSH_TOKEN: &str = "push-token-canary-8c2e";
const ORIGIN: &str = "https://gateway.example.com";

/// What these hosts are started with.
fn settings<'a>(wechat: &'a Wechat, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut settings = vec![
        ("WECHAT_API_URL", wechat.url()),
        ("WECHAT_APPID", logins::APPID),
        ("WECHAT_SECRET", logins::APP_SECRET),
        ("WECHAT_PUSH_TOKEN", PUSH_TOKEN),
        ("PUBLIC_URL", ORIGIN),
        ("TOKEN_SECRET", logins::SECRETS),
        ("SESSION_SECRET", crate::SESSION_SECRET),
        ("CONTENT_CHECK", "enforce"),
        ("CONTENT_CHECK_FAILURE", "closed"),
    ];
    settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    settings.extend_from_slice(more);
    settings
}

fn push() -> Push {
    Push {
        appid: logins::APPID.into(),
        token: PUSH_TOKEN.into(),
        encoding_aes_key: ENCODING_AES_KEY.into(),
        path: "/v1/wechat/push".into(),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A person of a host, with a token.
#[derive(Clone)]
struct Person {
    client: Client,
    token: String,
}

impl Person {
    async fn login(host: &Host, name: &str) -> Self {
        let client = Client::new(&host.url);
        let headers = [("content-type", "application/json")];
        let body = json!({"code": format!("good-{name}")}).to_string();
        let login = whole(client.send("POST", "/v1/mini/login", &headers, body).await).await;
        Self { client, token: login.json()["token"].as_str().expect("a token").to_owned() }
    }

    /// Sends a text with pictures; the answer will come.
    fn ask(&self, text: &str, pictures: &[Vec<u8>]) -> tokio::task::JoinHandle<Answer> {
        let mut body = say(text);
        let list = pictures.iter().map(|bytes| json!({"type": "image", "data": media::encode(bytes)}));
        body["attachments"] = list.collect();
        let Self { client, token } = self.clone();
        tokio::spawn(async move {
            let bearer = format!("Bearer {token}");
            let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
            whole(client.send("POST", "/api/chat", &headers, body.to_string()).await).await
        })
    }
}

/// As WeChat comes for a picture: the status, the type and the bytes.
async fn fetch(host: &Host, check: &MediaCheck) -> (u16, String, Vec<u8>) {
    let path = check.media_url.strip_prefix(ORIGIN).expect("this gateway's address");
    let response = Client::new(&host.url).send("GET", path, &[], "").await;
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    (response.status().as_u16(), kind, response.bytes().await.expect("a whole body").to_vec())
}

/// WeChat pushes to a host; what it is answered.
async fn pushes(host: &Host, (place, body): (String, String)) -> Answer {
    let headers = [("content-type", "application/json")];
    whole(Client::new(&host.url).send("POST", &place, &headers, body).await).await
}

fn result(check: &MediaCheck, suggest: &str, label: i64) -> Value {
    push().media_result(&check.trace_id, suggest, label, now_s())
}

async fn a_picture_is_fetched_judged_and_then_shown_to_the_agent(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let key = ("WECHAT_PUSH_AES_KEY", ENCODING_AES_KEY);
    let host = host(&scene, &settings(&wechat, &[key])).await;
    let person = Person::login(&host, "shows").await;

    // Many pieces in the store, and no WeChat until all of it is there.
    let marker = scene.marker("picture-fine");
    let pictures = [media::png(2_500_000), media::png(10)];
    let asked = person.ask(&marker, &pictures);
    let checks = wechat.wait_for_media_checks(2).await;
    for (check, picture) in checks.iter().zip(&pictures) {
        assert_eq!((check.media_type, check.openid.as_str()), (2, wechat.visit("shows").as_str()));
        let (status, kind, bytes) = fetch(&host, check).await;
        assert_eq!((status, kind.as_str()), (200, "image/png"));
        assert!(bytes == *picture, "{} bytes of {}", bytes.len(), picture.len());
    }
    assert!(scene.upstream().seen(&marker).is_empty() && !asked.is_finished());
    for (number, check) in checks.iter().enumerate() {
        let told = push().safe(&result(check, "pass", 100), now_s(), &format!("77{number}"));
        for _ in 0..2 {
            let answer = pushes(&host, told.clone()).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, "success"), "the second time too");
        }
    }
    let answer = asked.await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = scene.upstream().wait_for(&marker, "the turn", |_| true).await;
    assert_eq!(seen.body["input"][0]["content"][1]["source"]["data"], media::encode(&pictures[0]));
    for check in &checks {
        until("the picture to be gone", Duration::from_secs(10), || async {
            fetch(&host, check).await.0 == 404
        })
        .await;
    }

    let marker = scene.marker("picture-risky");
    let asked = person.ask(&marker, &[media::png(20)]);
    let checks = wechat.wait_for_media_checks(3).await;
    // In safe mode a message that nobody encrypted is nobody's.
    let forged = push().plain(&result(&checks[2], "pass", 100), now_s(), "78");
    assert_eq!(pushes(&host, forged).await.error(), (401, "push_not_signed".to_owned()));
    let told = push().safe(&result(&checks[2], "risky", 20_002), now_s(), "79");
    assert_eq!(pushes(&host, told).await.text, "success");
    let answer = asked.await.expect("an answer");
    assert_eq!(answer.error(), (400, "content_refused".to_owned()), "{}", answer.text);
    assert!(scene.upstream().seen(&marker).is_empty(), "it went nowhere");

    until("the last line", Duration::from_secs(10), || async { host.output().contains(&checks[2].trace_id) })
        .await;
    let output = host.output();
    for canary in CANARIES.iter().chain(&[logins::APP_SECRET, PUSH_TOKEN, ENCODING_AES_KEY]) {
        assert!(!output.contains(*canary), "{canary} is in the output");
    }
    assert!(!output.contains(checks[0].media_url.rsplit('/').next().expect("a name")));
    host.stop().await;
}

async fn what_cannot_be_checked_is_the_settings_to_judge(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let wait = ("CONTENT_CHECK_WAIT_MS", "1500");
    let closed = host(&scene, &settings(&wechat, &[wait])).await;
    let open = host(&scene, &settings(&wechat, &[wait, ("CONTENT_CHECK_FAILURE", "open")])).await;
    let strict = Person::login(&closed, "strict").await;
    let lax = Person::login(&open, "lax").await;
    let pictures = [media::png(30)];
    let unchecked = (503, "content_unchecked".to_owned());

    for errcode in [61010, 45009, 87020, -1] {
        wechat.set_fault(MEDIA_CHECK, Fault::Errcode(errcode));
        assert_eq!(strict.ask("x", &pictures).await.expect("one").error(), unchecked, "{errcode}");
        assert_eq!(lax.ask("x", &pictures).await.expect("one").status, 200, "{errcode}");
    }
    wechat.recover();
    // A void token is fetched anew, and no verdict comes.
    wechat.expire_token();
    assert_eq!(strict.ask("x", &pictures).await.expect("one").error(), unchecked, "no verdict");
    assert_eq!(lax.ask("x", &pictures).await.expect("one").status, 200, "no verdict");
    // WeChat could not download it.
    let before = wechat.media_checks().len();
    let asked = strict.ask("x", &pictures);
    let check = wechat.wait_for_media_checks(before + 1).await.remove(before);
    let failed = push().media_failed(&check.trace_id, now_s());
    assert_eq!(pushes(&closed, push().plain(&failed, now_s(), "80")).await.text, "success");
    assert_eq!(asked.await.expect("one").error(), unchecked);
    until("the cause in the log", Duration::from_secs(10), || async {
        closed.output().contains("\"contentCheck\":\"wechat_misconfigured\"")
    })
    .await;
    closed.stop().await;
    open.stop().await;
}

async fn only_logging_does_not_wait(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let host = host(&scene, &settings(&wechat, &[("CONTENT_CHECK", "log")])).await;
    let person = Person::login(&host, "logged").await;
    let answer = person.ask("a text", &[media::png(40)]).await.expect("one");
    assert_eq!(answer.status, 200, "{}", answer.text);
    let check = wechat.wait_for_media_checks(1).await.remove(0);
    assert_eq!(fetch(&host, &check).await.2, media::png(40), "it is there for WeChat all the same");
    let told = push().plain(&result(&check, "risky", 20_002), now_s(), "81");
    assert_eq!(pushes(&host, told).await.text, "success");
    let line = |route: &str| host.records().into_iter().find(|line| line["route"] == route);
    until("both lines", Duration::from_secs(10), || async {
        line("/v1/wechat/push").is_some() && line("/api/chat").is_some()
    })
    .await;
    let (push, turn) = (line("/v1/wechat/push").expect("one"), line("/api/chat").expect("one"));
    assert_eq!((&push["contentLabel"], &push["contentTrace"]), (&json!(20_002), &json!(check.trace_id)));
    assert_eq!(turn["pictureTraces"], json!([check.trace_id]));
    host.stop().await;
}

async fn a_push_that_is_not_signed_is_refused(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let host = host(&scene, &settings(&wechat, &[])).await;
    let client = Client::new(&host.url);
    let answer = client.get(&push().verification("4375120948345356249", now_s(), "82")).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "4375120948345356249"));
    let refused = (401, "push_not_signed".to_owned());
    let stale = client.get(&push().verification("1", now_s() - 3_600, "83")).await;
    assert_eq!(stale.error(), refused);
    let other = Push { token: "another-token-0123".into(), ..push() };
    assert_eq!(client.get(&other.verification("1", now_s(), "84")).await.error(), refused);
    let event = json!({"MsgType": "event", "Event": "debug_demo"});
    assert_eq!(pushes(&host, other.plain(&event, now_s(), "85")).await.error(), refused);
    assert_eq!(pushes(&host, push().plain(&event, now_s(), "86")).await.text, "success");
    let (place, _) = push().plain(&event, now_s(), "87");
    let large = pushes(&host, (place, "x".repeat(20_000))).await;
    assert_eq!(large.error(), (413, "body_too_large".to_owned()));
    for path in ["/v1/wechat/media/", "/v1/wechat/media/0123-1-10-0123.png"] {
        assert_eq!(client.get(path).await.error(), (404, "not_found".to_owned()), "{path}");
    }
    assert!(!host.output().contains(KEY));
    host.stop().await;
}

async fn a_verdict_wakes_a_turn_on_another_host(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let redis = Redis::start().await;
    let url = redis.url();
    let shared = settings(&wechat, &[("STORE_URL", url.as_str())]);
    let (here, there) = (host(&scene, &shared).await, host(&scene, &shared).await);
    let person = Person::login(&here, "elsewhere").await;
    let marker = scene.marker("picture-elsewhere");
    let picture = media::png(1_200_000);
    let asked = person.ask(&marker, std::slice::from_ref(&picture));
    let check = wechat.wait_for_media_checks(1).await.remove(0);
    assert!(fetch(&there, &check).await.2 == picture, "any host has it");
    let told = push().plain(&result(&check, "pass", 100), now_s(), "88");
    assert_eq!(pushes(&there, told).await.text, "success");
    let answer = asked.await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text);
    here.stop().await;
    there.stop().await;
}
