//! Robots of DingTalk over HTTP, end to end: whoever asks is answered once, in the right conversation,
//! and never met by silence, whatever the model, DingTalk or the host itself does.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use minigate_tests::{
    client::{Answer, Client, whole},
    dingtalk::{self, CANARIES, DingTalk, Fault, STAFF_ID, TO_GROUP, TO_PEOPLE},
    hosts::Host,
    until,
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_message_is_answered_once_in_its_conversation,
        what_dingtalk_did_not_sign_is_not_heard,
        where_the_webhook_is_over_the_api_answers,
        a_model_that_hangs_dies_or_talks_rubbish_is_told,
        an_acknowledgement_comes_where_the_answer_takes_long,
        a_busy_group_delays_itself_and_nobody_else,
        a_host_that_dies_answers_all_the_same,
    ]
}

pub(crate) const APP_KEY: &str = "dingappkey";
pub(crate) const APP_SECRET: &str = "ding-app-secret-canary-7f2e";

const CONFIGURATION: &str = "
models:
  m: {kind: openclaw, side_effects: none}
profiles:
  p: {model: m}
channels:
  desk: {kind: dingtalk, robot_code: normal, app_key: '${DING_KEY}', app_secret: '${DING_SECRET}', mode: http, profile: p, timeout_ms: 60000}
  hasty: {kind: dingtalk, robot_code: normal, app_key: '${DING_KEY}', app_secret: '${DING_SECRET}', mode: http, profile: p, timeout_ms: 2500}
  polite: {kind: dingtalk, robot_code: normal, app_key: '${DING_KEY}', app_secret: '${DING_SECRET}', mode: http, profile: p, ack: 收到，正在思考…, ack_after_ms: 300}
";

/// A host with robots, and their DingTalk.
struct Desk {
    host: Host,
    client: Client,
    ding: DingTalk,
}

/// What a host is set up with, and more.
fn settings<'s>(
    scene: &'s Scene,
    ding: &'s DingTalk,
    more: &[(&'s str, &'s str)],
) -> Vec<(&'s str, &'s str)> {
    let mut settings = scene.unlimited(&app(ding));
    settings.push(("LOG_LEVEL", "debug"));
    settings.extend_from_slice(more);
    settings
}

/// The app that all robots here belong to, at a scripted DingTalk.
pub(crate) fn app(ding: &DingTalk) -> [(&str, &str); 4] {
    [
        ("DINGTALK_API_URL", ding.url()),
        ("DINGTALK_OAPI_URL", ding.url()),
        ("DING_KEY", APP_KEY),
        ("DING_SECRET", APP_SECRET),
    ]
}

async fn start(scene: &Scene, more: &[(&str, &str)]) -> Desk {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    let files = [("robots.yaml", CONFIGURATION)];
    let host = Host::start_with_config(scene.kind, &files, &settings(scene, &ding, more)).await;
    let client = Client::new(&host.url);
    Desk { host, client, ding }
}

impl Desk {
    /// DingTalk calls, with headers of its own.
    async fn call(&self, robot: &str, signature: &[(&str, String)], message: &Value) -> Answer {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
        let path = format!("/dingtalk/{robot}");
        whole(self.client.send("POST", &path, &headers, message.to_string()).await).await
    }

    /// A message that is heard. What cannot be kept at the moment is said again, as DingTalk does; it is
    /// answered once all the same.
    async fn hears(&self, robot: &str, message: &Value) {
        let mut answer = self.call(robot, &self.ding.signature(0), message).await;
        for _ in 0..3 {
            if answer.status != 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer = self.call(robot, &self.ding.signature(0), message).await;
        }
        assert_eq!((answer.status, answer.text.as_str()), (200, "{}"), "{}", self.host.output());
    }

    /// The end; what was logged has nothing that is secret.
    async fn stop(self) {
        let output = self.host.output();
        for canary in CANARIES.iter().chain(&[APP_SECRET]) {
            assert!(!output.contains(canary), "{canary}: {output}");
        }
        self.host.stop().await;
    }
}

/// A group's message of somebody.
fn of(ding: &DingTalk, sender: &str, id: &str, text: &str, group: &str) -> Value {
    let mut message = ding.group_message(id, text, group);
    message["senderStaffId"] = sender.into();
    message["senderId"] = format!("$:LWCP_v1:${sender}").into();
    message
}

async fn a_message_is_answered_once_in_its_conversation(scene: Scene) {
    let desk = start(&scene, &[]).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-answers"));
    desk.hears("desk", &ding.group_message("m1", &text, "group")).await;
    desk.hears("desk", &ding.message("m2", &text, "alone")).await;
    let group = ding.wait_for_delivered("group", 1).await;
    assert_eq!(group[0].echo(), format!("echo: {text} @{STAFF_ID}"));
    assert_eq!(group[0].body["at"]["atUserIds"], json!([STAFF_ID]));
    let alone = ding.wait_for_delivered("alone", 1).await;
    assert_eq!(alone[0].echo(), format!("echo: {text}"));
    // They are two conversations.
    let asked = scene.upstream().seen(&text);
    let sessions: Vec<_> = asked.iter().map(|seen| seen.header("x-openclaw-session-key")).collect();
    assert!(sessions.len() == 2 && sessions[0].is_some() && sessions[0] != sessions[1], "{sessions:?}");
    // It comes again, with another signature.
    for _ in 0..3 {
        desk.hears("desk", &ding.group_message("m1", &text, "group")).await;
    }
    let quoting = scene.marker("robot-quotes");
    let mut message = ding.group_message("m3", &quoting, "group");
    message["text"]["repliedMsg"] = json!({"msgId": "m1", "content": {"text": "那条消息"}});
    desk.hears("desk", &message).await;
    let group = ding.wait_for_delivered("group", 2).await;
    assert!(group[1].words().contains("> 那条消息"), "{}", group[1].words());
    assert_eq!((group.len(), scene.upstream().seen(&text).len()), (2, 2));
    // What has no words is told so, and a long answer comes in pieces.
    let mut picture = ding.message("m4", "", "alone");
    (picture["msgtype"], picture["content"]) = ("picture".into(), json!({"downloadCode": "c"}));
    desk.hears("desk", &picture).await;
    let alone = ding.wait_for_delivered("alone", 2).await;
    // The profile looks at none, so DingTalk is not even asked for it.
    assert!(alone[1].words().contains("暂不支持这种文件"), "{}", alone[1].words());
    assert!(ding.requests_to(dingtalk::TOKEN).is_empty());
    desk.hears("desk", &ding.message("m5", "long [[up:huge=14000]]", "long")).await;
    let pieces = ding.wait_for_delivered("long", 3).await;
    assert!(pieces.iter().all(|piece| piece.words().encode_utf16().count() <= 3_800));
    desk.stop().await;
}

async fn what_dingtalk_did_not_sign_is_not_heard(scene: Scene) {
    let desk = start(&scene, &[]).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-unsigned"));
    let message = ding.message("m1", &text, "unsigned");
    let signature = ding.signature(0);
    let forged = [signature[0].clone(), ("sign", dingtalk::sign("a guess", &signature[0].1))];
    // The host may be slow to look at its clock.
    let hour = 2 * 3_600_000;
    for (robot, headers, status) in [
        ("desk", vec![], 401),
        ("desk", forged.to_vec(), 401),
        ("desk", ding.signature(-hour).to_vec(), 401),
        ("desk", ding.signature(hour).to_vec(), 401),
        ("nobody", signature.to_vec(), 404),
    ] {
        let answer = desk.call(robot, &headers, &message).await;
        assert_eq!(answer.status, status, "{robot} {headers:?}");
    }
    // No header speaks for the host.
    let marker = [("robot", "desk".to_owned()), ("x-minigate-robot", "desk".to_owned())];
    assert_eq!(desk.call("desk", &marker, &message).await.status, 401);
    // What cannot be read is not sent again.
    for body in [json!([]), json!({}), json!({"msgId": 5})] {
        desk.hears("desk", &body).await;
    }
    // Nothing is sent to an address out of a body that is not DingTalk's.
    let mut evil = ding.group_message("m2", &text, "evil");
    evil["sessionWebhook"] = format!("{}/robot/sendBySession?session=x", ding.url()).into();
    desk.hears("desk", &evil).await;
    let sent = ding.wait_for_delivered("cidevil=", 1).await;
    assert_eq!(sent[0].path, TO_GROUP);
    assert_eq!(scene.upstream().seen(&text).len(), 1);
    desk.stop().await;
}

async fn where_the_webhook_is_over_the_api_answers(scene: Scene) {
    let desk = start(&scene, &[]).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-falls-back"));
    ding.end_session("over");
    desk.hears("desk", &ding.group_message("m1", &text, "over")).await;
    let sent = ding.wait_for_delivered("cidover=", 1).await;
    assert_eq!((sent[0].path.as_str(), sent[0].echo()), (TO_GROUP, format!("echo: {text}")));
    // To a person; the token is used again, and renewed when it is over.
    ding.fail_once(dingtalk::SESSION, Fault::Errcode(130_101));
    desk.hears("desk", &ding.message("m2", &text, "fast")).await;
    let sent = ding.wait_for_delivered(STAFF_ID, 1).await;
    assert_eq!(sent[0].path, TO_PEOPLE);
    assert_eq!(ding.requests_to(dingtalk::TOKEN).len(), 1);
    ding.expire_token();
    let mut late = ding.message("m3", &text, "late");
    late["sessionWebhookExpiredTime"] = 1.into();
    desk.hears("desk", &late).await;
    ding.wait_for_delivered(STAFF_ID, 2).await;
    assert_eq!(ding.requests_to(dingtalk::TOKEN).len(), 2);
    // What fails for a while is said again.
    for fault in [Fault::Http(502), Fault::Garbage] {
        ding.fail_once(dingtalk::SESSION, fault);
    }
    desk.hears("desk", &ding.group_message("m4", &text, "again")).await;
    assert_eq!(ding.wait_for_delivered("again", 1).await.len(), 1);
    // What fails for longer is said by the API.
    for fault in [Fault::Http(502), Fault::Garbage, Fault::Errcode(-1)] {
        ding.fail_once(dingtalk::SESSION, fault);
    }
    desk.hears("desk", &ding.group_message("m5", &text, "unreached")).await;
    assert_eq!(ding.wait_for_delivered("cidunreached=", 1).await[0].path, TO_GROUP);
    desk.stop().await;
}

async fn a_model_that_hangs_dies_or_talks_rubbish_is_told(scene: Scene) {
    let desk = start(&scene, &[]).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-faults"));
    for (at, directive) in
        ["hang", "reset", "truncate", "html", "fail=internal", "status=draining", "empty"].iter().enumerate()
    {
        let begun = Instant::now();
        let session = format!("fault-{at}");
        let words = format!("{text} [[up:{directive}]]");
        desk.hears("hasty", &ding.group_message(&session, &words, &session)).await;
        let told = ding.wait_for_delivered(&session, 1).await;
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(8), "{directive}: {waited:?}\n{}", desk.host.output());
        let words = told[0].words();
        let its_own = words.contains("请稍后再试") || words.contains("请换个说法");
        // After so many failures in a row the model is left alone for a while, and all are told at once.
        let of_all = words.contains("请稍后再发一次");
        let clear = (its_own && words.contains(STAFF_ID)) || of_all;
        assert!(clear && words.contains("lease"), "{directive}: {words}");
    }
    // It has come back, and nobody had to start anything.
    until("it answers again", Duration::from_secs(40), || async {
        let id = format!("back-{}", ding.delivered().len());
        desk.hears("hasty", &ding.message(&id, &text, &id)).await;
        ding.wait_for_delivered(&id, 1).await[0].echo() == format!("echo: {text}")
    })
    .await;
    desk.stop().await;
}

async fn an_acknowledgement_comes_where_the_answer_takes_long(scene: Scene) {
    let desk = start(&scene, &[]).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-acks"));
    desk.hears("polite", &ding.group_message("m1", &format!("{text} [[up:slow=10000]]"), "slow")).await;
    let said = ding.wait_for_delivered("slow", 2).await;
    assert_eq!(said[0].words(), "收到，正在思考…");
    assert!(said[1].echo().starts_with(&format!("echo: {text}")));
    desk.stop().await;
}

/// A hundred messages of a group are there when somebody else asks: that answer has to wait for what
/// runs, and for one more at most. Of the hundred each is answered or refused, and refusals are few
/// sentences.
async fn a_busy_group_delays_itself_and_nobody_else(scene: Scene) {
    const MESSAGES: usize = 100;
    let more = [("MAX_CONCURRENCY", "1"), ("QUEUE_LIMIT", "20")];
    let desk = start(&scene, &more).await;
    let (ding, text) = (&desk.ding, scene.marker("robot-busy"));
    let quiet = scene.marker("robot-quiet");
    let robot = &desk;
    let sent = (0..MESSAGES).map(|at| {
        let words = format!("{text} number-{at}. [[up:slow=1000]]");
        let message = of(ding, &format!("9{}", at % 20), &format!("busy-{at}"), &words, "busy");
        async move { robot.hears("desk", &message).await }
    });
    join_all(sent).await;
    ding.wait_for_delivered("busy", 2).await;
    desk.hears("desk", &ding.message("quiet", &quiet, "quiet")).await;
    let before = scene.upstream().seen(&text).len();
    ding.wait_for_delivered("quiet", 1).await;
    // Some of the group's went before it was asked, and some after.
    let all = scene.upstream().seen("");
    let at = all.iter().position(|seen| seen.text().contains(&quiet)).expect("it was asked");
    let earlier = all[..at].iter().filter(|seen| seen.text().contains(&text)).count();
    assert!(earlier <= before + 2, "{earlier} were asked before it, {before} when it came");

    let turns = || {
        let records = desk.host.records();
        let of_robots = |record: &&Value| record["event"] == "turn" && record["route"] == "/dingtalk";
        records.iter().filter(of_robots).cloned().collect::<Vec<Value>>()
    };
    until("every turn ends", Duration::from_secs(90), || async { turns().len() > MESSAGES }).await;
    let (refused, answered): (Vec<Value>, Vec<Value>) =
        turns().into_iter().partition(|record| record.get("code").is_some());
    assert_eq!(refused.len() + answered.len(), MESSAGES + 1);
    assert!(refused.iter().all(|record| record["code"] == "queue_full"), "{refused:?}");
    // They come at once, before anybody knows how fast the model is: who would be too late is refused.
    assert!(!refused.is_empty() && answered.len() >= 10, "{} {}", refused.len(), answered.len());
    // The answers are all said, and after the last refusal one sentence.
    let echoes = |words: &str| words.contains(&text) && words.starts_with("echo: ");
    until("all is said", Duration::from_secs(40), || async {
        let said = ding.delivered_to("busy");
        let of_many = said.iter().filter(|said| said.words().contains("没有得到回答的消息")).count();
        said.iter().filter(|said| echoes(&said.words())).count() == answered.len() - 1 && of_many > 0
    })
    .await;
    let said = ding.delivered_to("busy");
    for at in 0..MESSAGES {
        let of_it = said.iter().filter(|said| said.words().contains(&format!("number-{at}."))).count();
        assert!(of_it <= 1, "number {at} was answered {of_it} times");
    }
    let sentences = said.iter().filter(|said| !echoes(&said.words())).count();
    assert!((1..=4).contains(&sentences), "{sentences} sentences for {} refusals", refused.len());
    desk.stop().await;
}

async fn a_host_that_dies_answers_all_the_same(scene: Scene) {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    let kept =
        std::env::temp_dir().join(format!("minigate-robot-{}-{}", scene.kind.name(), std::process::id()));
    std::fs::create_dir_all(&kept).expect("a temporary directory");
    let text = scene.marker("robot-dies");
    let files = [("robots.yaml", CONFIGURATION)];
    let settings = settings(&scene, &ding, &[]);
    let host = Host::start_kept(scene.kind, &kept, &files, &settings).await;
    let client = Client::new(&host.url);
    let desk = Desk { host, client, ding: ding.clone() };
    desk.hears("desk", &ding.group_message("m1", &format!("{text} [[up:slow=8000]]"), "dies")).await;
    scene.upstream().wait_for(&text, "it is asked", |_| true).await;
    desk.host.kill().await;
    assert!(ding.delivered_to("dies").is_empty());
    let host = Host::start_kept(scene.kind, &kept, &files, &settings).await;
    let client = Client::new(&host.url);
    let desk = Desk { host, client, ding: ding.clone() };
    // DingTalk, too, says it again.
    desk.hears("desk", &ding.group_message("m1", &text, "dies")).await;
    let said = || ding.delivered_to("dies");
    until("it is answered", Duration::from_secs(90), || async { !said().is_empty() }).await;
    assert_eq!(said().len(), 1);
    assert!(said()[0].echo().starts_with(&format!("echo: {text}")), "{}", said()[0].words());
    desk.stop().await;
    let _ = std::fs::remove_dir_all(&kept);
}
