//! A scripted WeChat: signing in and checking content cannot be tried against the real
//! service, which wants a registered app and a phone. It answers with the documented fields
//! and errors, is as strict as the documentation, and puts a canary into everything that may
//! reach no client and no log.
//!
//! What a sign-in does is in its code:
//!
//! | code | does |
//! | --- | --- |
//! | `good-NAME` | signs in, once; what follows a `~` only makes the code another one |
//! | `zero-NAME` | the same, with an `errcode` of 0 as older texts have it |
//! | `errcode-N` | fails with that error |
//! | `http-STATUS`, `hang`, `garbage` | fails as [`Fault`] has it; `hang-X` is one more `hang` |
//! | anything else | is a code that does not exist |
//!
//! A name with `union` in it has a `unionid`, and one with `rankN` is of risk N. What a check
//! of a text does is in the text: `RISKY`, `REVIEW`, and `SLOW` for an answer that waits for
//! [`Wechat::release`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _, block_padding::NoPadding};
use base64::{
    Engine as _,
    alphabet::STANDARD as ALPHABET,
    engine::general_purpose::{GeneralPurpose, PAD, STANDARD},
};
use hyper::Response;
use reqwest::Url;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::sync::{Semaphore, watch};

use Fault::Errcode;

use crate::scripted::{self, Body, Running, Seen, Server};

/// Where a code becomes a user.
pub const LOGIN: &str = "/sns/jscode2session";
/// Where the token for the other calls comes from.
pub const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
/// Where a text is checked.
pub const TEXT_CHECK: &str = "/wxa/msg_sec_check";
/// Where the check of a picture or a sound is ordered.
pub const MEDIA_CHECK: &str = "/wxa/media_check_async";
/// Where the risk of a user is asked for.
pub const RISK_RANK: &str = "/wxa/getuserriskrank";

/// What each openid begins with.
pub const OPENID: &str = "oCANARY_";
/// In each unionid.
pub const UNIONID: &str = "UNIONCANARY";
/// In each session key.
pub const SESSION_KEY: &str = "SESSIONKEYCANARY";
/// In each access token.
pub const TOKEN: &str = "TOKENCANARY";
/// In each error's text.
pub const ERRMSG: &str = "canary-errmsg";
/// In the word that a risky text was found to have.
pub const KEYWORD: &str = "KEYWORDCANARY";
/// All of these.
pub const CANARIES: [&str; 6] = [OPENID, UNIONID, SESSION_KEY, TOKEN, ERRMSG, KEYWORD];

/// An `EncodingAESKey` as the console makes them: its last character has bits that belong to
/// no byte, which a strict decoder refuses.
pub const ENCODING_AES_KEY: &str = "aesKeyCanary0123456789abcdefghijklmnopqrstu";

/// The most characters of a text.
const LONGEST: usize = 2500;

/// What a call fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error of WeChat's, which comes with a status of 200.
    Errcode(i64),
    /// A status, with a page of HTML.
    Http(u16),
    /// A status of 200 and something that is not JSON.
    Garbage,
    /// Silence.
    Hang,
}

/// A check of a picture or a sound that was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaCheck {
    /// What the result is found by.
    pub trace_id: String,
    /// Where WeChat would fetch it.
    pub media_url: String,
    /// 1 is a sound, 2 a picture.
    pub media_type: u64,
    /// Whose it is.
    pub openid: String,
}

/// The scripted WeChat.
#[derive(Clone, Debug)]
pub struct Wechat {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    appid: String,
    secret: String,
    facts: Mutex<Facts>,
    // One permit lets one waiting check go: a release counts also when it comes first.
    released: Semaphore,
    media: watch::Sender<Vec<MediaCheck>>,
}

#[derive(Debug)]
struct Facts {
    used: BTreeSet<String>,
    // Whether a known user was here within the last two hours.
    users: BTreeMap<String, bool>,
    token: Option<String>,
    tokens: u64,
    expires_in: u64,
    faults: BTreeMap<String, Fault>,
    serial: u64,
}

/// The openid of a name: 28 characters as real ones have, more where the name is long.
#[must_use]
pub fn openid(name: &str) -> String {
    let mut openid = format!("{OPENID}{name}_{}", hex_sha1(name));
    openid.truncate((OPENID.len() + name.len() + 5).max(28));
    openid
}

impl Wechat {
    /// Starts it on a free port, for one app.
    pub async fn start(appid: &str, secret: &str) -> Self {
        let facts = Facts {
            used: BTreeSet::new(),
            users: BTreeMap::new(),
            token: None,
            tokens: 0,
            expires_in: 7200,
            faults: BTreeMap::new(),
            serial: 0,
        };
        let state = Arc::new(State {
            appid: appid.to_owned(),
            secret: secret.to_owned(),
            facts: Mutex::new(facts),
            released: Semaphore::new(0),
            media: watch::channel(Vec::new()).0,
        });
        let answering = Arc::clone(&state);
        let server = Server::start(move |seen, running| answer(seen, running, Arc::clone(&answering))).await;
        Self { server, state }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// All requests.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.server.seen("")
    }

    /// The requests to a path.
    #[must_use]
    pub fn requests_to(&self, path: &str) -> Vec<Seen> {
        self.requests().into_iter().filter(|seen| seen.path == path).collect()
    }

    /// The number of requests to a path.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        self.requests_to(path).len()
    }

    /// The texts that were to be checked, also those that were refused.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let texts = self.requests_to(TEXT_CHECK).into_iter();
        texts.filter_map(|seen| seen.body["content"].as_str().map(str::to_owned)).collect()
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
        self.wait_for(path, &what, |_| self.count(path) >= count).await;
    }

    /// Waits until the connection of a request to a path was closed early.
    ///
    /// # Panics
    /// When none was within 20 s.
    pub async fn wait_for_abort(&self, path: &str) -> Seen {
        self.wait_for(path, "an abort", |seen| seen.aborted).await
    }

    /// A user who is using the app, without a sign-in; the openid.
    pub fn visit(&self, name: &str) -> String {
        let openid = openid(name);
        self.state.facts().users.insert(openid.clone(), true);
        openid
    }

    /// A user was last seen more than two hours ago, as far as WeChat knows.
    pub fn forget(&self, openid: &str) {
        self.state.facts().users.insert(openid.to_owned(), false);
    }

    /// The token is valid no more; whoever asks gets a new one.
    pub fn expire_token(&self) {
        self.state.facts().token = None;
    }

    /// What is said of the time that tokens are valid, from now on. They stay valid.
    pub fn set_expires_in(&self, seconds: u64) {
        self.state.facts().expires_in = seconds;
    }

    /// All requests for a token fail from now on, until [`Self::recover`].
    pub fn set_token_error(&self, errcode: i64) {
        self.set_fault(STABLE_TOKEN, Errcode(errcode));
    }

    /// All checks of texts fail from now on, until [`Self::recover`].
    pub fn fail_with(&self, errcode: i64) {
        self.set_fault(TEXT_CHECK, Errcode(errcode));
    }

    /// No check of a text is answered from now on, until [`Self::recover`].
    pub fn hang(&self) {
        self.set_fault(TEXT_CHECK, Fault::Hang);
    }

    /// All requests to a path fail from now on, until [`Self::recover`].
    pub fn set_fault(&self, path: &str, fault: Fault) {
        self.state.facts().faults.insert(path.to_owned(), fault);
    }

    /// Nothing fails from now on; what hangs already stays so.
    pub fn recover(&self) {
        self.state.facts().faults.clear();
    }

    /// Lets so many checks of `SLOW` texts go on, whether they wait already or come later.
    pub fn release(&self, count: usize) {
        self.state.released.add_permits(count);
    }

    /// The checks of pictures and sounds that were accepted.
    #[must_use]
    pub fn media_checks(&self) -> Vec<MediaCheck> {
        self.state.media.borrow().clone()
    }

    /// Waits until so many of them were accepted.
    ///
    /// # Panics
    /// When they were not within 20 s.
    pub async fn wait_for_media_checks(&self, count: usize) -> Vec<MediaCheck> {
        let mut media = self.state.media.subscribe();
        let there = media.wait_for(|media| media.len() >= count);
        match tokio::time::timeout(Duration::from_secs(20), there).await {
            Ok(media) => media.expect("the sender is ours").clone(),
            Err(_) => panic!("not {count} media checks: {:?}", self.media_checks()),
        }
    }
}

async fn answer(seen: Seen, running: Running, state: Arc<State>) -> io::Result<Response<Body>> {
    let fault = state.facts().faults.get(&seen.path).copied();
    let outcome = match fault {
        Some(fault) => Err(fault),
        None => state.outcome(&seen).await,
    };
    // The one endpoint whose JSON says that it is text; clients that look at the type fail.
    let kind = if seen.path == LOGIN { "text/plain" } else { "application/json; encoding=utf-8" };
    let (status, kind, text) = match outcome {
        Ok(value) => (200, kind, value.to_string()),
        Err(Errcode(errcode)) => (200, kind, state.error(errcode).to_string()),
        Err(Fault::Http(status)) => {
            (status, "text/html", format!("<html><body>{status} {ERRMSG}</body></html>"))
        }
        Err(Fault::Garbage) => (200, kind, format!("{{\"errcode\": {ERRMSG}")),
        Err(Fault::Hang) => return running.hang().await,
    };
    Ok(scripted::answer(status, kind, vec![text.into()], running))
}

impl State {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next of the numbers that are in every answer.
    fn next(&self) -> u64 {
        let mut facts = self.facts();
        facts.serial += 1;
        facts.serial
    }

    fn error(&self, errcode: i64) -> Value {
        let rid = format!("rid: 60ae120f-{:08x}-7941a05b", self.next());
        json!({"errcode": errcode, "errmsg": format!("{}, {rid} {ERRMSG}", message(errcode))})
    }

    async fn outcome(&self, seen: &Seen) -> Result<Value, Fault> {
        match seen.path.as_str() {
            LOGIN => self.login(seen),
            STABLE_TOKEN => self.stable_token(seen),
            TEXT_CHECK => self.text_check(seen).await,
            MEDIA_CHECK => self.media_check(seen),
            RISK_RANK => self.risk_rank(seen),
            _ => Err(Errcode(40066)),
        }
    }

    fn login(&self, seen: &Seen) -> Result<Value, Fault> {
        // The real one looks only at the query of a GET: to it, a POST has no parameters.
        let parameter = |name| if seen.method == "GET" { parameter(seen, name) } else { None };
        let appid = parameter("appid").ok_or(Errcode(41002))?;
        let secret = parameter("secret").ok_or(Errcode(41004))?;
        let code = parameter("js_code").ok_or(Errcode(41008))?;
        self.check_app(&appid, &secret)?;
        if parameter("grant_type").as_deref() != Some("authorization_code") {
            return Err(Errcode(40002));
        }
        let (kind, rest) = code.split_once('-').unwrap_or((&code, ""));
        match kind {
            "good" | "zero" => self.sign_in(&code, rest, kind == "zero"),
            "errcode" => Err(Errcode(rest.parse().unwrap_or(40029))),
            "http" => Err(rest.parse().map_or(Errcode(40029), Fault::Http)),
            "hang" => Err(Fault::Hang),
            "garbage" => Err(Fault::Garbage),
            _ => Err(Errcode(40029)),
        }
    }

    fn sign_in(&self, code: &str, rest: &str, with_errcode: bool) -> Result<Value, Fault> {
        let name = rest.split('~').next().unwrap_or_default();
        if name.is_empty() {
            return Err(Errcode(40029));
        }
        let mut facts = self.facts();
        if !facts.used.insert(code.to_owned()) {
            return Err(Errcode(40163));
        }
        let openid = openid(name);
        facts.users.insert(openid.clone(), true);
        // Sixteen bytes as real ones, and new with each sign-in.
        let session_key = format!("{SESSION_KEY}{}A==", &hex_sha1(code)[..5]);
        let mut value = json!({"session_key": session_key, "openid": openid});
        if name.contains("union") {
            value["unionid"] = format!("o6_{UNIONID}_{name}").into();
        }
        if with_errcode {
            value["errcode"] = 0.into();
            value["errmsg"] = "ok".into();
        }
        Ok(value)
    }

    fn stable_token(&self, seen: &Seen) -> Result<Value, Fault> {
        let body = posted(seen)?;
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty());
        if text("grant_type") != Some("client_credential") {
            return Err(Errcode(40002));
        }
        self.check_app(text("appid").ok_or(Errcode(41002))?, text("secret").ok_or(Errcode(41004))?)?;
        let mut facts = self.facts();
        let token = match facts.token.clone() {
            Some(token) if body["force_refresh"] != true => token,
            _ => {
                facts.tokens += 1;
                format!("{TOKEN}-{}", facts.tokens)
            }
        };
        facts.token = Some(token.clone());
        Ok(json!({"access_token": token, "expires_in": facts.expires_in}))
    }

    async fn text_check(&self, seen: &Seen) -> Result<Value, Fault> {
        let body = self.called(seen)?;
        let content = body["content"].as_str().ok_or(Errcode(47001))?;
        if content.is_empty() {
            return Err(Errcode(44002));
        }
        check_version(body)?;
        if content.chars().count() > LONGEST {
            return Err(Errcode(45002));
        }
        self.check_user(body)?;
        check_scene(body, 1..=4)?;
        if content.contains("SLOW") {
            self.released.acquire().await.expect("never closed").forget();
        }
        let (suggest, label) = if content.contains("RISKY") {
            ("risky", json!(20001))
        } else if content.contains("REVIEW") {
            // A number by the documentation; users saw texts.
            ("review", json!("21000"))
        } else {
            ("pass", json!(100))
        };
        let mut detail = vec![json!({"strategy": "content_model", "errcode": 0, "suggest": suggest,
                                     "label": label, "prob": 90})];
        detail.push(if suggest == "pass" {
            // A detail with an error of its own does not count, whatever it says.
            json!({"strategy": "keyword", "errcode": -1, "suggest": "risky", "label": 20006})
        } else {
            json!({"strategy": "keyword", "errcode": 0, "suggest": suggest, "label": label, "level": 90,
                   "keyword": KEYWORD})
        });
        let result = json!({"suggest": suggest, "label": label});
        let trace_id = format!("60ae120f-{:08x}-7941a05b", self.next());
        Ok(json!({"errcode": 0, "errmsg": "ok", "result": result, "detail": detail, "trace_id": trace_id}))
    }

    fn media_check(&self, seen: &Seen) -> Result<Value, Fault> {
        let body = self.called(seen)?;
        let media_url = body["media_url"].as_str().ok_or(Errcode(47001))?;
        // Something that can be fetched at all.
        Url::parse(media_url).map_err(|_| Errcode(47001))?;
        let media_type = body["media_type"].as_u64().filter(|kind| (1..=2).contains(kind));
        let media_type = media_type.ok_or(Errcode(40004))?;
        check_version(body)?;
        let openid = self.check_user(body)?;
        check_scene(body, 1..=4)?;
        let trace_id = format!("60f96f1d-{:08x}-1976a3ae", self.next());
        let check = MediaCheck {
            trace_id: trace_id.clone(),
            media_url: media_url.to_owned(),
            media_type,
            openid: openid.to_owned(),
        };
        self.media.send_modify(|media| media.push(check));
        Ok(json!({"errcode": 0, "errmsg": "ok", "trace_id": trace_id}))
    }

    fn risk_rank(&self, seen: &Seen) -> Result<Value, Fault> {
        let body = self.called(seen)?;
        let (appid, client_ip) = (body["appid"].as_str(), body["client_ip"].as_str());
        let (Some(_), Some(client_ip)) = (appid, client_ip) else { return Err(Errcode(47001)) };
        if client_ip.is_empty() {
            return Err(Errcode(44002));
        }
        if body["appid"] != self.appid.as_str() {
            return Err(Errcode(43104));
        }
        let openid = self.check_user(body)?;
        // 0 registers, 1 takes part in a promotion.
        check_scene(body, 0..=1)?;
        let digit = openid.split("rank").nth(1).and_then(|rest| rest.chars().next()?.to_digit(10));
        let rank = digit.filter(|rank| *rank <= 4).unwrap_or(0);
        // The spelling is theirs.
        Ok(
            json!({"errcode": 0, "errmsg": "getuserriskrank succ", "risk_rank": rank, "unoin_id": self.next()}),
        )
    }

    fn check_app(&self, appid: &str, secret: &str) -> Result<(), Fault> {
        if appid != self.appid {
            return Err(Errcode(40013));
        }
        if secret != self.secret {
            return Err(Errcode(40125));
        }
        Ok(())
    }

    /// The body of a call with a token.
    fn called<'a>(&self, seen: &'a Seen) -> Result<&'a Value, Fault> {
        if seen.method == "POST" && seen.body.get("access_token").is_some() {
            return Err(Errcode(47001));
        }
        let token = parameter(seen, "access_token").ok_or(Errcode(41001))?;
        if self.facts().token != Some(token) {
            return Err(Errcode(40001));
        }
        posted(seen)
    }

    /// The openid in a body, which must be of a user who was here lately.
    fn check_user<'a>(&self, body: &'a Value) -> Result<&'a str, Fault> {
        let openid = body["openid"].as_str().ok_or(Errcode(40003))?;
        match self.facts().users.get(openid) {
            Some(true) => Ok(openid),
            Some(false) => Err(Errcode(61010)),
            None => Err(Errcode(40003)),
        }
    }
}

/// A parameter in the query; one without a value is missing.
fn parameter(seen: &Seen, name: &str) -> Option<String> {
    let url = Url::parse(&format!("http://wechat/?{}", seen.query)).ok()?;
    let value = url.query_pairs().find(|(key, _)| key == name)?.1.into_owned();
    Some(value).filter(|value| !value.is_empty())
}

/// The JSON object in the body of a POST.
fn posted(seen: &Seen) -> Result<&Value, Fault> {
    if seen.method != "POST" {
        return Err(Errcode(43002));
    }
    if seen.raw.is_empty() {
        return Err(Errcode(44002));
    }
    Some(&seen.body).filter(|body| body.is_object()).ok_or(Errcode(47001))
}

/// A number, and the second version's.
fn check_version(body: &Value) -> Result<(), Fault> {
    if body["version"] == 2 { Ok(()) } else { Err(Errcode(47001)) }
}

fn check_scene(body: &Value, scenes: RangeInclusive<u64>) -> Result<(), Fault> {
    let scene = body["scene"].as_u64().filter(|scene| scenes.contains(scene));
    scene.map(drop).ok_or(Errcode(40129))
}

fn message(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system error",
        40001 => "invalid credential, access_token is invalid or not latest",
        40002 => "invalid grant_type",
        40003 => "invalid openid",
        40004 => "invalid media type",
        40013 => "invalid appid",
        40029 => "invalid code",
        40066 => "invalid url",
        40125 => "invalid appsecret",
        40129 => "invalid scene",
        40163 => "code been used",
        40164 => "invalid ip 10.9.8.7, not in whitelist",
        40226 => "code blocked",
        41001 => "access_token missing",
        41002 => "appid missing",
        41004 => "appsecret missing",
        41008 => "missing code",
        42001 => "access_token expired",
        43002 => "require POST method",
        43104 => "The openid does not match the appid",
        44002 => "empty post data",
        44991 => "reach max api minute frequence",
        45002 => "content size out of limit",
        45009 => "reach max api daily quota limit",
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        47001 => "data format error",
        48001 => "api unauthorized",
        61010 => "code is expired",
        87020 => "repeat request limit exceeded",
        _ => "some error",
    }
}

/// WeChat's side of message push: what it sends to the app's own server.
#[derive(Clone, Debug)]
pub struct Push {
    /// The app.
    pub appid: String,
    /// The token that signatures are made with.
    pub token: String,
    /// The key of the safe mode: 43 characters.
    pub encoding_aes_key: String,
    /// The path that was set up as the address.
    pub path: String,
}

impl Push {
    /// The path and query of the GET that asks whether the address is the app's; the answer
    /// is the `echostr`.
    #[must_use]
    pub fn verification(&self, echostr: &str, timestamp: u64, nonce: &str) -> String {
        let signature = self.signature(timestamp, nonce, None);
        format!("{}?signature={signature}&echostr={echostr}&timestamp={timestamp}&nonce={nonce}", self.path)
    }

    /// The event that says what came out of the check of a picture or a sound.
    #[must_use]
    pub fn media_result(&self, trace_id: &str, suggest: &str, label: i64, timestamp: u64) -> Value {
        let detail = json!([{"strategy": "content_model", "errcode": 0, "suggest": suggest, "label": label,
                             "prob": 90}]);
        let result = json!({"suggest": suggest, "label": label});
        json!({"ToUserName": "gh_9df7d78a1234", "FromUserName": "o4_t144jTUSEoxydysUA2E234_tc",
               "CreateTime": timestamp, "MsgType": "event", "Event": "wxa_media_check", "appid": self.appid,
               "trace_id": trace_id, "version": 2, "detail": detail, "errcode": 0, "errmsg": "ok",
               "result": result})
    }

    /// The event that says that it could not be downloaded. What it says of the content
    /// then does not count.
    #[must_use]
    pub fn media_failed(&self, trace_id: &str, timestamp: u64) -> Value {
        let mut event = self.media_result(trace_id, "pass", 100, timestamp);
        event["errcode"] = (-1008).into();
        event["errmsg"] = format!("download error {ERRMSG}").into();
        event
    }

    /// Path and query, and body, of an event in plain mode. The signature covers no body.
    #[must_use]
    pub fn plain(&self, event: &Value, timestamp: u64, nonce: &str) -> (String, String) {
        let signature = self.signature(timestamp, nonce, None);
        let place = format!("{}?signature={signature}&timestamp={timestamp}&nonce={nonce}", self.path);
        (place, event.to_string())
    }

    /// Path and query, and body, of an event in safe mode.
    ///
    /// # Panics
    /// When the key is none.
    #[must_use]
    pub fn safe(&self, event: &Value, timestamp: u64, nonce: &str) -> (String, String) {
        let random = &hex_sha1(&format!("{timestamp}{nonce}"))[..16];
        let sealed = self.seal(random, &event.to_string());
        let signature = self.signature(timestamp, nonce, None);
        let msg_signature = self.signature(timestamp, nonce, Some(&sealed));
        let openid = event["FromUserName"].as_str().unwrap_or_default();
        let place = format!(
            "{}?signature={signature}&timestamp={timestamp}&nonce={nonce}&openid={openid}\
             &encrypt_type=aes&msg_signature={msg_signature}",
            self.path
        );
        (place, json!({"ToUserName": event["ToUserName"], "Encrypt": sealed}).to_string())
    }

    /// The signature of a request, or with a sealed body the one that covers it.
    #[must_use]
    pub fn signature(&self, timestamp: u64, nonce: &str, sealed: Option<&str>) -> String {
        let timestamp = timestamp.to_string();
        let mut parts = vec![self.token.as_str(), &timestamp, nonce];
        parts.extend(sealed);
        parts.sort_unstable();
        hex_sha1(&parts.concat())
    }

    /// What `Encrypt` is of a message.
    ///
    /// # Panics
    /// When the key is none.
    #[must_use]
    pub fn seal(&self, random: &str, message: &str) -> String {
        let key = self.key();
        let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        let mut text = [random.as_bytes(), &length, message.as_bytes(), self.appid.as_bytes()].concat();
        // The padding is that of blocks of 32 bytes, twice as many as the cipher has.
        let missing = 32 - text.len() % 32;
        text.resize(text.len() + missing, u8::try_from(missing).expect("at most 32"));
        // The documentation names no IV; the sample code takes the beginning of the key.
        let cipher =
            cbc::Encryptor::<aes::Aes256>::new_from_slices(&key, &key[..16]).expect("a key of 32 bytes");
        STANDARD.encode(cipher.encrypt_padded_vec::<NoPadding>(&text))
    }

    fn key(&self) -> Vec<u8> {
        let lenient = GeneralPurpose::new(&ALPHABET, PAD.with_decode_allow_trailing_bits(true));
        let key = lenient.decode(format!("{}=", self.encoding_aes_key)).expect("an EncodingAESKey");
        assert_eq!(key.len(), 32, "an EncodingAESKey has 43 characters");
        key
    }
}

fn hex_sha1(text: &str) -> String {
    Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use aes::cipher::BlockModeDecrypt as _;

    use super::*;

    const APPID: &str = "wxba5fad812f8e6fb9";
    const SECRET: &str = "app-secret-canary-2f81";

    struct Bench {
        wechat: Wechat,
        http: reqwest::Client,
    }

    impl Bench {
        async fn start() -> Self {
            let http = reqwest::Client::builder().no_proxy().build().expect("a client");
            Self { wechat: Wechat::start(APPID, SECRET).await, http }
        }

        async fn get(&self, place: &str) -> reqwest::Response {
            self.http.get(format!("{}{place}", self.wechat.url())).send().await.expect("an answer")
        }

        async fn post(&self, place: &str, body: impl Into<reqwest::Body>) -> Value {
            let request = self.http.post(format!("{}{place}", self.wechat.url())).body(body);
            json_of(request.send().await.expect("an answer")).await
        }

        async fn login(&self, code: &str) -> Value {
            json_of(self.get(&login(APPID, SECRET, code)).await).await
        }

        async fn token(&self) -> String {
            let value = self.post(STABLE_TOKEN, token_request().to_string()).await;
            value["access_token"].as_str().expect("a token").to_owned()
        }

        async fn call(&self, path: &str, body: &Value) -> Value {
            let token = self.token().await;
            self.post(&format!("{path}?access_token={token}"), body.to_string()).await
        }

        async fn check(&self, openid: &str, content: &str) -> Value {
            self.call(TEXT_CHECK, &text(openid, content)).await
        }
    }

    async fn json_of(response: reqwest::Response) -> Value {
        let text = response.text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
    }

    fn login(appid: &str, secret: &str, code: &str) -> String {
        format!("{LOGIN}?appid={appid}&secret={secret}&js_code={code}&grant_type=authorization_code")
    }

    fn token_request() -> Value {
        json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET})
    }

    fn text(openid: &str, content: &str) -> Value {
        json!({"content": content, "version": 2, "scene": 1, "openid": openid})
    }

    #[tokio::test]
    async fn a_code_is_good_once() {
        let bench = Bench::start().await;
        let response = bench.get(&login(APPID, SECRET, "good-ann")).await;
        assert_eq!(response.headers()["content-type"], "text/plain");
        let first = json_of(response).await;
        let (id, key) = (first["openid"].as_str().expect("one"), first["session_key"].as_str().expect("one"));
        assert_eq!((id, id.len()), (openid("ann").as_str(), 28));
        assert!(id.starts_with("oCANARY_ann"), "{id}");
        assert!(key.contains("SESSIONKEYCANARY"), "{key}");
        assert_eq!(STANDARD.decode(key).expect("base64").len(), 16);
        assert_eq!((first.get("errcode"), first.get("unionid")), (None, None));
        let second = bench.login("good-ann").await;
        assert_eq!(second["errcode"], 40163);
        let errmsg = second["errmsg"].as_str().expect("a text");
        assert!(errmsg.contains("rid: ") && errmsg.contains(ERRMSG), "{errmsg}");
        let again = bench.login("good-ann~2").await;
        assert_eq!(again["openid"], first["openid"]);
        assert_ne!(again["session_key"], first["session_key"]);
        let zero = bench.login("zero-union").await;
        assert_eq!(zero["errcode"], 0);
        assert!(zero["unionid"].as_str().expect("one").contains(UNIONID));
        assert_eq!(bench.login("zero-union").await["errcode"], 40163);
    }

    #[tokio::test]
    async fn a_wrong_sign_in_is_refused_and_costs_no_code() {
        let bench = Bench::start().await;
        let code = "js_code=good-bob&grant_type=authorization_code";
        for (query, errcode) in [
            (format!("appid=wx1&secret={SECRET}&{code}"), 40013),
            (format!("appid={APPID}&secret=x&{code}"), 40125),
            (format!("secret={SECRET}&{code}"), 41002),
            (format!("appid={APPID}&{code}"), 41004),
            (format!("appid={APPID}&secret={SECRET}&js_code=&grant_type=authorization_code"), 41008),
            (format!("appid={APPID}&secret={SECRET}&js_code=good-bob"), 40002),
            (format!("appid={APPID}&secret={SECRET}&js_code=x&grant_type=authorization_code"), 40029),
            (format!("appid={APPID}&secret={SECRET}&js_code=good-&grant_type=authorization_code"), 40029),
        ] {
            let value = json_of(bench.get(&format!("{LOGIN}?{query}")).await).await;
            assert_eq!(value["errcode"], errcode, "{query}");
        }
        assert_eq!(bench.post(&login(APPID, SECRET, "good-bob"), "").await["errcode"], 41002);
        assert_eq!(bench.login("good-bob").await["openid"], openid("bob"));
        assert_eq!(json_of(bench.get("/sns/nothing").await).await["errcode"], 40066);
    }

    #[tokio::test]
    async fn a_code_says_how_it_fails() {
        let bench = Bench::start().await;
        for errcode in [-1, 40226, 45011, 12345] {
            assert_eq!(bench.login(&format!("errcode-{errcode}")).await["errcode"], errcode);
        }
        let page = bench.get(&login(APPID, SECRET, "http-502")).await;
        assert_eq!(
            (page.status().as_u16(), &page.headers()["content-type"]),
            (502, &"text/html".parse().expect("one"))
        );
        let garbage = bench.get(&login(APPID, SECRET, "garbage")).await;
        assert_eq!(garbage.status(), 200);
        assert!(serde_json::from_str::<Value>(&garbage.text().await.expect("a body")).is_err());
        {
            let place = login(APPID, SECRET, "hang-1");
            let hangs = bench.get(&place);
            let asked = bench.wechat.wait_for(LOGIN, "the code", |seen| seen.query.contains("hang-1"));
            tokio::select! {
                _ = hangs => panic!("it answered"),
                seen = asked => assert!(!seen.aborted),
            }
        }
        let gone = bench.wechat.wait_for_abort(LOGIN).await;
        assert!(gone.query.contains("hang-1"), "{gone:?}");
    }

    #[tokio::test]
    async fn a_token_stays_until_it_expires() {
        let bench = Bench::start().await;
        let id = bench.wechat.visit("ann");
        let value = bench.post(STABLE_TOKEN, token_request().to_string()).await;
        assert_eq!(value, json!({"access_token": "TOKENCANARY-1", "expires_in": 7200}));
        assert_eq!(bench.token().await, "TOKENCANARY-1");
        let place = format!("{TEXT_CHECK}?access_token=TOKENCANARY-1");
        bench.wechat.expire_token();
        assert_eq!(bench.post(&place, text(&id, "x").to_string()).await["errcode"], 40001);
        assert_eq!(bench.token().await, "TOKENCANARY-2");
        assert_eq!(bench.post(&place, text(&id, "x").to_string()).await["errcode"], 40001);
        let mut forced = token_request();
        forced["force_refresh"] = true.into();
        bench.wechat.set_expires_in(60);
        let forced = bench.post(STABLE_TOKEN, forced.to_string()).await;
        assert_eq!(forced, json!({"access_token": "TOKENCANARY-3", "expires_in": 60}));
        bench.wechat.set_token_error(40164);
        let refused = bench.post(STABLE_TOKEN, token_request().to_string()).await;
        assert_eq!((&refused["errcode"], refused.get("access_token")), (&json!(40164), None));
        bench.wechat.recover();
        assert_eq!(bench.token().await, "TOKENCANARY-3");
        for (key, value, errcode) in [
            ("appid", "wx1", 40013),
            ("secret", "x", 40125),
            ("appid", "", 41002),
            ("secret", "", 41004),
            ("grant_type", "x", 40002),
        ] {
            let mut request = token_request();
            request[key] = value.into();
            assert_eq!(bench.post(STABLE_TOKEN, request.to_string()).await["errcode"], errcode, "{key}");
        }
        assert_eq!(bench.post(STABLE_TOKEN, "").await["errcode"], 44002);
        assert_eq!(bench.post(STABLE_TOKEN, "appid=wx1").await["errcode"], 47001);
        assert_eq!(json_of(bench.get(STABLE_TOKEN).await).await["errcode"], 43002);
    }

    #[tokio::test]
    async fn a_text_is_judged_by_what_is_in_it() {
        let bench = Bench::start().await;
        let id = bench.wechat.visit("ann");
        let pass = bench.check(&id, "hello").await;
        assert_eq!(
            (&pass["errcode"], &pass["result"]),
            (&json!(0), &json!({"suggest": "pass", "label": 100}))
        );
        assert_ne!(pass["detail"][1]["errcode"], 0);
        assert!(pass["trace_id"].is_string());
        let risky = bench.check(&id, "so RISKY").await;
        assert_eq!(risky["result"], json!({"suggest": "risky", "label": 20001}));
        assert_eq!(risky["detail"][1]["keyword"], KEYWORD);
        let review = bench.check(&id, "a REVIEW").await;
        assert_eq!(review["result"], json!({"suggest": "review", "label": "21000"}));
        assert_eq!(bench.wechat.texts(), ["hello", "so RISKY", "a REVIEW"]);
        assert_eq!(bench.wechat.count(TEXT_CHECK), 3);
    }

    #[tokio::test]
    async fn a_malformed_check_is_refused() {
        let bench = Bench::start().await;
        let id = bench.wechat.visit("ann");
        // Characters are counted, not bytes.
        assert_eq!(bench.check(&id, &"字".repeat(2500)).await["errcode"], 0);
        assert_eq!(bench.check(&id, &"x".repeat(2501)).await["errcode"], 45002);
        assert_eq!(bench.check(&id, "").await["errcode"], 44002);
        assert_eq!(bench.check(&openid("nobody"), "x").await["errcode"], 40003);
        bench.wechat.forget(&id);
        assert_eq!(bench.check(&id, "x").await["errcode"], 61010);
        bench.login("good-ann").await;
        assert_eq!(bench.check(&id, "x").await["errcode"], 0);
        for (key, value, errcode) in [
            ("content", json!(1), 47001),
            ("version", json!("2"), 47001),
            ("version", json!(1), 47001),
            ("scene", json!(5), 40129),
            ("scene", json!("1"), 40129),
            ("openid", Value::Null, 40003),
        ] {
            let mut body = text(&id, "x");
            body[key] = value;
            assert_eq!(bench.call(TEXT_CHECK, &body).await["errcode"], errcode, "{body}");
        }
        let token = bench.token().await;
        let mut inside = text(&id, "x");
        assert_eq!(bench.post(TEXT_CHECK, inside.to_string()).await["errcode"], 41001);
        inside["access_token"] = token.as_str().into();
        assert_eq!(bench.post(TEXT_CHECK, inside.to_string()).await["errcode"], 47001);
        let place = format!("{TEXT_CHECK}?access_token={token}");
        assert_eq!(bench.post(&place, "").await["errcode"], 44002);
        assert_eq!(bench.post(&place, "content=x").await["errcode"], 47001);
        assert_eq!(json_of(bench.get(&place).await).await["errcode"], 43002);
        let wrong = format!("{TEXT_CHECK}?access_token=x");
        assert_eq!(bench.post(&wrong, text(&id, "x").to_string()).await["errcode"], 40001);
    }

    #[tokio::test]
    async fn a_slow_check_waits_for_its_release_and_a_fault_for_its_end() {
        let bench = Bench::start().await;
        let id = bench.wechat.visit("ann");
        let (slow, ()) = tokio::join!(bench.check(&id, "SLOW and RISKY"), async {
            bench.wechat.wait_for_count(TEXT_CHECK, 1).await;
            // Others do not wait behind it.
            assert_eq!(bench.check(&id, "quick").await["errcode"], 0);
            bench.wechat.release(1);
        });
        assert_eq!(slow["result"]["suggest"], "risky");
        bench.wechat.release(1);
        assert_eq!(bench.check(&id, "SLOW").await["result"]["suggest"], "pass");
        bench.wechat.fail_with(44991);
        assert_eq!(bench.check(&id, "x").await["errcode"], 44991);
        assert_eq!(bench.check(&id, "y").await["errcode"], 44991);
        bench.wechat.hang();
        tokio::select! {
            _ = bench.check(&id, "hanging") => panic!("it answered"),
            _ = bench.wechat.wait_for(TEXT_CHECK, "it", |seen| seen.body["content"] == "hanging") => {}
        }
        assert_eq!(bench.wechat.wait_for_abort(TEXT_CHECK).await.body["content"], "hanging");
        bench.wechat.recover();
        assert_eq!(bench.check(&id, "x").await["errcode"], 0);
    }

    #[tokio::test]
    async fn a_media_check_is_kept() {
        let bench = Bench::start().await;
        let id = bench.wechat.visit("ann");
        let body =
            json!({"media_url": "https://h/p.png", "media_type": 2, "version": 2, "scene": 1, "openid": id});
        let value = bench.call(MEDIA_CHECK, &body).await;
        assert_eq!(value["errcode"], 0);
        let kept = bench.wechat.wait_for_media_checks(1).await;
        let trace_id = value["trace_id"].as_str().expect("one").to_owned();
        let media_url = "https://h/p.png".to_owned();
        assert_eq!(kept, [MediaCheck { trace_id, media_url, media_type: 2, openid: id.clone() }]);
        assert_ne!(bench.call(MEDIA_CHECK, &body).await["trace_id"], value["trace_id"]);
        for (key, value, errcode) in [
            ("media_url", json!("p.png"), 47001),
            ("media_type", json!(3), 40004),
            ("version", json!(1), 47001),
            ("scene", json!(0), 40129),
            ("openid", json!("o1"), 40003),
        ] {
            let mut body = body.clone();
            body[key] = value;
            assert_eq!(bench.call(MEDIA_CHECK, &body).await["errcode"], errcode, "{body}");
        }
        bench.wechat.forget(&id);
        assert_eq!(bench.call(MEDIA_CHECK, &body).await["errcode"], 61010);
        assert_eq!(bench.wechat.media_checks().len(), 2);
    }

    #[tokio::test]
    async fn a_risk_is_in_the_name() {
        let bench = Bench::start().await;
        for (name, rank) in [("ann", 0), ("rank4", 4), ("bobrank2", 2), ("rank9", 0)] {
            let id = bench.wechat.visit(name);
            let body = json!({"appid": APPID, "openid": id, "scene": 1, "client_ip": "10.1.2.3"});
            let value = bench.call(RISK_RANK, &body).await;
            assert_eq!((&value["errcode"], &value["risk_rank"]), (&json!(0), &json!(rank)), "{name}");
        }
        let id = bench.wechat.visit("ann");
        for (key, value, errcode) in [
            ("appid", json!("wx1"), 43104),
            ("appid", Value::Null, 47001),
            ("client_ip", Value::Null, 47001),
            ("client_ip", json!(""), 44002),
            ("scene", json!(2), 40129),
            ("openid", json!("o1"), 40003),
        ] {
            let mut body = json!({"appid": APPID, "openid": id, "scene": 0, "client_ip": "10.1.2.3"});
            body[key] = value;
            assert_eq!(bench.call(RISK_RANK, &body).await["errcode"], errcode, "{body}");
        }
    }

    fn push(encoding_aes_key: &str) -> Push {
        let (appid, token) = (APPID.to_owned(), "AAAAA".to_owned());
        Push { appid, token, encoding_aes_key: encoding_aes_key.to_owned(), path: "/push".to_owned() }
    }

    /// The examples of the documentation's page on message push.
    #[test]
    fn pushes_are_signed_and_sealed_as_documented() {
        const SEALED: &str = "+qdx1OKCy+5JPCBFWw70tm0fJGb2Jmeia4FCB7kao+/Q5c/ohsOzQHi8khUOb05JCpj0JB4RvQMkUyus8TPxLKJGQqcvZqzDpVzazhZv6JsXUnnR8XGT740XgXZUXQ7vJVnAG+tE8NUd4yFyjPy7GgiaviNrlCTj+l5kdfMuFUPpRSrfMZuMcp3Fn2Pede2IuQrKEYwKSqFIZoNqJ4M8EajAsjLY2km32IIjdf8YL/P50F7mStwntrA2cPDrM1kb6mOcfBgRtWygb3VIYnSeOBrebufAlr7F9mFUPAJGj04=";
        const REPLY: &str =
            "ELGduP2YcVatjqIS+eZbp80MNLoAUWvzzyJxgGzxZO/5sAvd070Bs6qrLARC9nVHm48Y4hyRbtzve1L32tmxSQ==";
        let push = push(&"A".repeat(43));
        assert_eq!(
            push.verification("4375120948345356249", 1_714_036_504, "1514711492"),
            "/push?signature=f464b24fc39322e44b38aa78f5edd27bd1441696&echostr=4375120948345356249\
             &timestamp=1714036504&nonce=1514711492"
        );
        let event = json!({"Event": "debug_demo"});
        let (place, body) = push.plain(&event, 1_714_037_059, "486452656");
        assert_eq!(
            place,
            "/push?signature=899cf89e464efb63f54ddac96b0a0a235f53aa78&timestamp=1714037059&nonce=486452656"
        );
        assert_eq!(body, event.to_string());
        let message = r#"{"ToUserName":"gh_97417a04a28d","FromUserName":"o9AgO5Kd5ggOC-bXrbNODIiE3bGY","CreateTime":1714112445,"MsgType":"event","Event":"debug_demo","debug_str":"hello world"}"#;
        assert_eq!(push.seal("a8eedb185eb2fecf", message), SEALED);
        assert_eq!(
            push.signature(1_714_112_445, "415670741", Some(SEALED)),
            "046e02f8204d34f8ba5fa3b1db94908f3df2e9b3"
        );
        assert_eq!(
            push.signature(1_714_112_445, "415670741", None),
            "6c5c811b55cc85e0e1b54100749188c20beb3f5d"
        );
        assert_eq!(push.seal("707722b803182950", r#"{"demo_resp":"good luck"}"#), REPLY);
        assert_eq!(
            push.signature(1_713_424_427, "415670741", Some(REPLY)),
            "1b9339964ed2e271e7c7b6ff2b0ef902fc94dea1"
        );
    }

    #[test]
    fn a_sealed_result_can_be_opened_again() {
        let push = push(ENCODING_AES_KEY);
        assert!(STANDARD.decode(format!("{ENCODING_AES_KEY}=")).is_err(), "a strict decoder takes the key");
        let event = push.media_result("60f96f1d-00000001-1976a3ae", "risky", 20001, 1_714_112_445);
        let (place, body) = push.safe(&event, 1_714_112_445, "415670741");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let sealed = body["Encrypt"].as_str().expect("a text");
        let signature = push.signature(1_714_112_445, "415670741", Some(sealed));
        assert!(
            place.ends_with(&format!("&encrypt_type=aes&msg_signature={signature}"))
                && place.contains("&openid=o4_"),
            "{place}"
        );
        let key = push.key();
        let cipher = cbc::Decryptor::<aes::Aes256>::new_from_slices(&key, &key[..16]).expect("a key");
        let sealed = STANDARD.decode(sealed).expect("base64");
        assert_eq!(sealed.len() % 32, 0);
        let mut text = cipher.decrypt_padded_vec::<NoPadding>(&sealed).expect("whole blocks");
        let padding = usize::from(*text.last().expect("a padding"));
        text.truncate(text.len() - padding);
        let length =
            usize::try_from(u32::from_be_bytes(text[16..20].try_into().expect("four"))).expect("small");
        assert_eq!(serde_json::from_slice::<Value>(&text[20..20 + length]).expect("JSON"), event);
        assert_eq!(text[20 + length..], *APPID.as_bytes());
        let failed = push.media_failed("60f96f1d-00000001-1976a3ae", 1_714_112_445);
        assert_eq!(failed["errcode"], -1008);
    }
}
