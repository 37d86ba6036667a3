//! A scripted DingTalk: a robot cannot be tried against the real service, which wants a registered
//! app and people who write to it. It answers with the documented fields and errors, is as strict as
//! the documentation, and puts a canary into every credential that it gives out and into each
//! error's text.
//!
//! Over HTTP it takes what is sent by session webhook and by the API, and gives tokens and tickets.
//! The sockets of Stream mode do only what a test says: see [`Sockets`].

mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Response;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use sockets::{Happened, Sockets, What};

use crate::scripted::{self, Body, Running, Seen, Server};

/// Where a reply goes that is sent by session webhook.
pub const SESSION: &str = "/robot/sendBySession";
/// Where the token for the API comes from.
pub const TOKEN: &str = "/v1.0/oauth2/accessToken";
/// Where the token of the older interfaces comes from.
pub const OLD_TOKEN: &str = "/gettoken";
/// Where a message to people goes.
pub const TO_PEOPLE: &str = "/v1.0/robot/oToMessages/batchSend";
/// Where a message to a group goes.
pub const TO_GROUP: &str = "/v1.0/robot/groupMessages/send";
/// Where the address of a socket comes from.
pub const OPEN: &str = "/v1.0/gateway/connections/open";
/// The topic of messages to a robot.
pub const MESSAGES: &str = "/v1.0/im/bot/messages/get";

/// In each session of a webhook.
pub const SESSION_CANARY: &str = "SESSIONHOOKCANARY";
/// In each access token.
pub const TOKEN_CANARY: &str = "DINGTOKENCANARY";
/// In each ticket.
pub const TICKET_CANARY: &str = "TICKETCANARY";
/// In each error's text.
pub const ERRMSG: &str = "ding-canary-errmsg";
/// All of these.
pub const CANARIES: [&str; 4] = [SESSION_CANARY, TOKEN_CANARY, TICKET_CANARY, ERRMSG];

/// The people whom the API knows by `senderStaffId`; a message to others is refused.
pub const STAFF_ID: &str = "0326";

/// What a call fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error in a body with a status of 200, as the session webhook has them: 300001 is a session
    /// that is over, 130101 too many messages, -1 DingTalk's own failure, 310000 a refusal.
    Errcode(i64),
    /// An error of the API: a status and a code.
    Code(u16, &'static str),
    /// A status, with a page of HTML.
    Http(u16),
    /// A status of 200 and something that is not JSON.
    Garbage,
    /// Silence.
    Hang,
}

/// The scripted DingTalk, for one app.
#[derive(Clone, Debug)]
pub struct DingTalk {
    server: Server,
    state: Arc<State>,
    /// The sockets of Stream mode.
    pub sockets: Sockets,
}

#[derive(Debug)]
struct State {
    app_key: String,
    app_secret: String,
    endpoint: String,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    serial: u64,
    token: Option<String>,
    /// Sessions that are over.
    over: BTreeSet<String>,
    faults: BTreeMap<String, Fault>,
    /// Faults of single requests, in their order; they come before the others.
    once: BTreeMap<String, Vec<Fault>>,
    /// What was taken for delivery, in its order.
    delivered: Vec<Delivered>,
}

/// A message that DingTalk has shown to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// The path by which it came.
    pub path: String,
    /// To whom: the name of the session, the person, or the group.
    pub to: String,
    /// The body.
    pub body: Value,
}

impl Delivered {
    /// What people read, whichever form the message has.
    #[must_use]
    pub fn words(&self) -> String {
        let param: Value = self.body["msgParam"]
            .as_str()
            .map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_default());
        let places = [&self.body["markdown"]["text"], &self.body["text"]["content"], &param["text"]];
        places.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The same of an echo of the scripted upstream, without the marks that the prompt has put around
    /// the asker's words.
    #[must_use]
    pub fn echo(&self) -> String {
        let words = self.words();
        let echo = || {
            let (before, rest) = words.split_once("<data-")?;
            let (mark, rest) = rest.split_once(">\n")?;
            // Cut off where the words have an order to the upstream.
            let end = format!("\n</data-{mark}>");
            Some(format!("{before}{}", rest.replacen(&end, "", 1)))
        };
        echo().unwrap_or(words)
    }
}

impl DingTalk {
    /// Starts it on free ports, for one app.
    ///
    /// # Panics
    /// When there are none.
    pub async fn start(app_key: &str, app_secret: &str) -> Self {
        let sockets = Sockets::start().await;
        let state = Arc::new(State {
            app_key: app_key.to_owned(),
            app_secret: app_secret.to_owned(),
            endpoint: sockets.endpoint().to_owned(),
            facts: Mutex::default(),
        });
        let (answering, tickets) = (Arc::clone(&state), sockets.clone());
        let server = Server::start(move |seen, running| {
            answer(seen, running, Arc::clone(&answering), tickets.clone())
        })
        .await;
        Self { server, state, sockets }
    }

    /// Its base URL, for `DINGTALK_API_URL` and `DINGTALK_OAPI_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// The requests to a path, those that failed too.
    #[must_use]
    pub fn requests_to(&self, path: &str) -> Vec<Seen> {
        self.server.seen("").into_iter().filter(|seen| seen.path == path).collect()
    }

    /// Waits until a request to a path fulfils a condition.
    ///
    /// # Panics
    /// When none does within 20 s.
    pub async fn wait_for(&self, path: &str, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        self.server.wait_for("", what, |seen| seen.path == path && holds(seen)).await
    }

    /// Waits until so many requests to a path have come, at least one.
    ///
    /// # Panics
    /// When they have not within 20 s.
    pub async fn wait_for_count(&self, path: &str, count: usize) {
        let what = format!("{count} requests to {path}");
        self.wait_for(path, &what, |_| self.requests_to(path).len() >= count).await;
    }

    /// What people have been shown, in its order.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.state.facts().delivered.clone()
    }

    /// What has been shown in one session, to one person or one group.
    #[must_use]
    pub fn delivered_to(&self, to: &str) -> Vec<Delivered> {
        self.delivered().into_iter().filter(|message| message.to == to).collect()
    }

    /// Waits until so many messages were shown there.
    ///
    /// # Panics
    /// When they were not within 20 s.
    pub async fn wait_for_delivered(&self, to: &str, count: usize) -> Vec<Delivered> {
        let what = format!("{count} messages to {to}");
        // A message is taken before its request is answered, and the record changes after both.
        let there =
            crate::until(&what, Duration::from_secs(40), || async { self.delivered_to(to).len() >= count });
        there.await;
        self.delivered_to(to)
    }

    /// The session webhook of a conversation, by a name: at DingTalk's own host, whose address a
    /// gateway under test has from `DINGTALK_OAPI_URL`.
    #[must_use]
    pub fn webhook(&self, name: &str) -> String {
        format!("https://oapi.dingtalk.com{}", session_path(name))
    }

    /// The same here, for a client that goes wherever a message says.
    #[must_use]
    pub fn webhook_here(&self, name: &str) -> String {
        format!("{}{}", self.url(), session_path(name))
    }

    /// A session is over, whatever was said of its end.
    pub fn end_session(&self, name: &str) {
        self.state.facts().over.insert(name.to_owned());
    }

    /// The access token is valid no more; whoever asks gets a new one.
    pub fn expire_token(&self) {
        self.state.facts().token = None;
    }

    /// All requests to a path fail from now on, until [`Self::recover`].
    pub fn set_fault(&self, path: &str, fault: Fault) {
        self.state.facts().faults.insert(path.to_owned(), fault);
    }

    /// The next request to a path that is not spoken for fails.
    pub fn fail_once(&self, path: &str, fault: Fault) {
        self.state.facts().once.entry(path.to_owned()).or_default().push(fault);
    }

    /// Nothing fails from now on; what hangs already stays so.
    pub fn recover(&self) {
        let mut facts = self.state.facts();
        facts.faults.clear();
        facts.once.clear();
    }

    /// A message to the robot as DingTalk sends it: the body of a callback, the data of a frame. The
    /// session's name is also the conversation's.
    #[must_use]
    pub fn message(&self, msg_id: &str, text: &str, session: &str) -> Value {
        let now = now_ms();
        json!({
            "conversationId": format!("cid{session}="), "conversationType": "1",
            "atUsers": [{"dingtalkId": "$:LWCP_v1:$robot"}],
            "chatbotCorpId": "dingcorp", "chatbotUserId": "$:LWCP_v1:$robot",
            "msgId": msg_id, "senderNick": "Xiao Ming", "isAdmin": true, "senderStaffId": STAFF_ID,
            "senderCorpId": "dingcorp", "senderId": "$:LWCP_v1:$sender", "senderPlatform": "Mac",
            "sessionWebhook": self.webhook(session), "sessionWebhookExpiredTime": now + 5_400_000,
            "createAt": now, "robotCode": "normal", "msgtype": "text", "text": {"content": text},
        })
    }

    /// The same in a group, in which the robot was addressed.
    #[must_use]
    pub fn group_message(&self, msg_id: &str, text: &str, session: &str) -> Value {
        let mut message = self.message(msg_id, &format!(" {text}"), session);
        message["conversationType"] = "2".into();
        message["conversationTitle"] = "A group".into();
        message["isInAtList"] = true.into();
        message
    }

    /// The headers `timestamp` and `sign` of a callback that is sent so many milliseconds from now.
    #[must_use]
    pub fn signature(&self, from_now_ms: i64) -> [(&'static str, String); 2] {
        let timestamp = now_ms().saturating_add_signed(from_now_ms).to_string();
        let sign = sign(&self.state.app_secret, &timestamp);
        [("timestamp", timestamp), ("sign", sign)]
    }
}

fn session_path(name: &str) -> String {
    format!("{SESSION}?session={SESSION_CANARY}-{name}")
}

/// The signature of a callback: base64 of HMAC-SHA256 over the time, a line feed and the secret.
#[must_use]
pub fn sign(secret: &str, timestamp: &str) -> String {
    const BLOCK: usize = 64;
    let key = secret.as_bytes();
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(padded.map(|byte| byte ^ 0x36))
        .chain_update(format!("{timestamp}\n{secret}"))
        .finalize();
    STANDARD.encode(Sha256::new().chain_update(padded.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn answer(
    seen: Seen,
    running: Running,
    state: Arc<State>,
    sockets: Sockets,
) -> io::Result<Response<Body>> {
    let outcome = match state.fault(&seen.path) {
        Some(fault) => Err(fault),
        None => state.outcome(&seen, &sockets),
    };
    let (status, kind, text) = match outcome {
        Ok(value) => (200, "application/json", value.to_string()),
        Err(Fault::Errcode(errcode)) => {
            let error = json!({"errcode": errcode, "errmsg": format!("{} {ERRMSG}", message(errcode))});
            (200, "application/json", error.to_string())
        }
        Err(Fault::Code(status, code)) => {
            let error = json!({"code": code, "message": ERRMSG, "requestid": state.next("request")});
            (status, "application/json", error.to_string())
        }
        Err(Fault::Http(status)) => {
            (status, "text/html", format!("<html><body>{status} {ERRMSG}</body></html>"))
        }
        Err(Fault::Garbage) => (200, "application/json", format!("{{\"errcode\": {ERRMSG}")),
        Err(Fault::Hang) => return running.hang().await,
    };
    Ok(scripted::answer(status, kind, vec![text.into()], running))
}

fn message(errcode: i64) -> &'static str {
    match errcode {
        300_001 => "session 不存在",
        130_101 => "send too fast, exceed 20 times per minute",
        310_000 => "keywords not in content",
        -1 => "系统繁忙",
        _ => "error",
    }
}

impl State {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A text that comes once.
    fn next(&self, what: &str) -> String {
        let mut facts = self.facts();
        facts.serial += 1;
        format!("{what}-{}", facts.serial)
    }

    fn fault(&self, path: &str) -> Option<Fault> {
        let mut facts = self.facts();
        let once = facts.once.get_mut(path).filter(|faults| !faults.is_empty());
        once.map(|faults| faults.remove(0)).or_else(|| facts.faults.get(path).copied())
    }

    fn outcome(&self, seen: &Seen, sockets: &Sockets) -> Result<Value, Fault> {
        match (seen.method.as_str(), seen.path.as_str()) {
            ("POST", SESSION) => self.by_session(seen),
            ("POST", TOKEN) => self.give_token(seen),
            ("GET", OLD_TOKEN) => self.give_old_token(seen),
            ("POST", TO_PEOPLE) => self.by_api(seen, &seen.body["userIds"][0]),
            ("POST", TO_GROUP) => self.by_api(seen, &seen.body["openConversationId"]),
            ("POST", OPEN) => self.open(seen, sockets),
            _ => Err(Fault::Code(404, "InvalidAction.NotFound")),
        }
    }

    fn by_session(&self, seen: &Seen) -> Result<Value, Fault> {
        let session = seen.query.strip_prefix("session=").and_then(|rest| rest.strip_prefix(SESSION_CANARY));
        let name = session.and_then(|rest| rest.strip_prefix('-')).ok_or(Fault::Errcode(300_001))?;
        if self.facts().over.contains(name) {
            return Err(Fault::Errcode(300_001));
        }
        let content = match seen.body["msgtype"].as_str() {
            Some("text") => &seen.body["text"]["content"],
            Some("markdown") if seen.body["markdown"]["title"].is_string() => &seen.body["markdown"]["text"],
            _ => &Value::Null,
        };
        // 400301 is an empty or missing message.
        content.as_str().filter(|text| !text.is_empty()).ok_or(Fault::Errcode(400_301))?;
        self.deliver(seen, name);
        Ok(json!({"errcode": 0, "errmsg": "ok"}))
    }

    fn by_api(&self, seen: &Seen, to: &Value) -> Result<Value, Fault> {
        let token = seen.header("x-acs-dingtalk-access-token");
        if token.is_none() || token != self.facts().token.as_deref() {
            return Err(Fault::Code(401, "InvalidAuthentication"));
        }
        let text = |key: &str| seen.body[key].as_str().filter(|text| !text.is_empty());
        text("robotCode").ok_or(Fault::Code(400, "invalidParameter.robotCode.empty"))?;
        text("msgKey").ok_or(Fault::Code(400, "invalidParameter.msgKey.invalid"))?;
        let param = text("msgParam").and_then(|param| serde_json::from_str::<Value>(param).ok());
        param.ok_or(Fault::Code(400, "invalidParameter.msgParam.invalid"))?;
        let to = to.as_str().ok_or(Fault::Code(400, "invalidParameter.userIds.invalid"))?;
        if seen.path == TO_PEOPLE && to != STAFF_ID {
            return Ok(json!({"processQueryKey": self.next("key"), "invalidStaffIdList": [to]}));
        }
        self.deliver(seen, to);
        Ok(
            json!({"processQueryKey": self.next("key"), "invalidStaffIdList": [], "flowControlledStaffIdList": []}),
        )
    }

    fn deliver(&self, seen: &Seen, to: &str) {
        let delivered = Delivered { path: seen.path.clone(), to: to.to_owned(), body: seen.body.clone() };
        self.facts().delivered.push(delivered);
    }

    fn give_token(&self, seen: &Seen) -> Result<Value, Fault> {
        self.check_app(&seen.body["appKey"], &seen.body["appSecret"])?;
        Ok(json!({"accessToken": self.token(), "expireIn": 7200}))
    }

    fn give_old_token(&self, seen: &Seen) -> Result<Value, Fault> {
        let expected = format!("appkey={}&appsecret={}", self.app_key, self.app_secret);
        if seen.query != expected {
            return Err(Fault::Errcode(40_089));
        }
        Ok(json!({"errcode": 0, "errmsg": "ok", "access_token": self.token(), "expires_in": 7200}))
    }

    fn token(&self) -> String {
        let fresh = self.next(TOKEN_CANARY);
        self.facts().token.get_or_insert(fresh).clone()
    }

    fn check_app(&self, key: &Value, secret: &Value) -> Result<(), Fault> {
        if (key.as_str(), secret.as_str()) == (Some(&self.app_key), Some(&self.app_secret)) {
            return Ok(());
        }
        Err(Fault::Code(400, "invalidClientIdOrSecret"))
    }

    fn open(&self, seen: &Seen, sockets: &Sockets) -> Result<Value, Fault> {
        let body = &seen.body;
        self.check_app(&body["clientId"], &body["clientSecret"])
            .map_err(|_| Fault::Code(401, "authFailed"))?;
        let topics = body["subscriptions"].as_array().filter(|topics| !topics.is_empty());
        let known = |one: &Value| {
            matches!(one["type"].as_str(), Some("CALLBACK" | "EVENT" | "SYSTEM")) && one["topic"].is_string()
        };
        if !topics.is_some_and(|topics| topics.iter().all(known)) {
            return Err(Fault::Code(400, "invalidParameter.subscriptions"));
        }
        let ticket = self.next(TICKET_CANARY);
        sockets.admit(&ticket);
        Ok(json!({"endpoint": self.endpoint, "ticket": ticket}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn post(dingtalk: &DingTalk, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
        let url =
            if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", dingtalk.url()) };
        let mut request = reqwest::Client::new().post(url).body(body.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.expect("a text")).unwrap_or_default())
    }

    #[test]
    fn a_callback_is_signed_as_documented() {
        assert_eq!(sign("this is a secret", "1577262236757"), "DJrE6qdyVGCQz9z5r2MDuNcNAhwYnuAkyj13cx169CA=");
    }

    #[tokio::test]
    async fn a_session_takes_what_is_documented_and_says_errors_in_the_body() {
        let dingtalk = DingTalk::start("key", "secret").await;
        let hook = dingtalk.webhook_here("one");
        let text = json!({"msgtype": "text", "text": {"content": "hi"}});
        assert_eq!(post(&dingtalk, &hook, &[], &text).await.1["errcode"], 0);
        assert_eq!(post(&dingtalk, &hook, &[], &json!({"msgtype": "card"})).await.1["errcode"], 400_301);
        dingtalk.fail_once(SESSION, Fault::Errcode(130_101));
        assert_eq!(post(&dingtalk, &hook, &[], &text).await.1["errcode"], 130_101);
        dingtalk.set_fault(SESSION, Fault::Http(502));
        assert_eq!(post(&dingtalk, &hook, &[], &text).await.0, 502);
        dingtalk.recover();
        dingtalk.end_session("one");
        assert_eq!(post(&dingtalk, &hook, &[], &text).await.1["errcode"], 300_001);
        let words: Vec<String> = dingtalk.delivered_to("one").iter().map(Delivered::words).collect();
        assert_eq!(words, ["hi"]);
    }

    #[tokio::test]
    async fn the_api_wants_a_token_of_its_own() {
        let dingtalk = DingTalk::start("key", "secret").await;
        let message = json!({"robotCode": "r", "userIds": [STAFF_ID], "msgKey": "sampleMarkdown",
                             "msgParam": r#"{"title":"t","text":"hi"}"#});
        assert_eq!(post(&dingtalk, TO_PEOPLE, &[], &message).await.0, 401);
        let wrong = json!({"appKey": "key", "appSecret": "other"});
        assert_eq!(post(&dingtalk, TOKEN, &[], &wrong).await.0, 400);
        let right = json!({"appKey": "key", "appSecret": "secret"});
        let (_, given) = post(&dingtalk, TOKEN, &[], &right).await;
        let token = given["accessToken"].as_str().expect("a token").to_owned();
        let header = [("x-acs-dingtalk-access-token", token.as_str())];
        assert_eq!(post(&dingtalk, TO_PEOPLE, &header, &message).await.0, 200);
        assert_eq!(dingtalk.delivered_to(STAFF_ID)[0].words(), "hi");
        dingtalk.expire_token();
        assert_eq!(post(&dingtalk, TO_PEOPLE, &header, &message).await.0, 401);
    }
}
