//! Everything that can go wrong for a client, and the one place where it becomes a
//! status, a code and a body.
//!
//! No text of an upstream may get in here: a message is ours, or it is about the
//! client's own input.

use std::fmt::Write as _;

use super::json;
use crate::seam::Level;

/// Who is to blame. Decides the `type` of the body and the level of the log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request is wrong; sending it again will not help.
    Client,
    /// The request is fine, a rule forbids it now.
    Policy,
    /// OpenClaw or the model failed.
    Upstream,
    /// An operator must act.
    Configuration,
    /// A defect of this program.
    Bug,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $blame:ident, $retryable:literal;)*) => {
        /// A stable error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in `error.code`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Who is to blame.
            pub fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)* }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }
        }
    };
}

codes! {
    /// Not JSON of the right shape.
    InvalidJson = "invalid_json", 400, Client, false;
    /// No messages.
    MessagesEmpty = "messages_empty", 400, Client, false;
    /// More messages than allowed.
    TooManyMessages = "too_many_messages", 400, Client, false;
    /// Nothing to answer.
    LastMessageNotUser = "last_message_not_user", 400, Client, false;
    /// A message says nothing.
    MessageEmpty = "message_empty", 400, Client, false;
    /// A role that does not pass.
    UnsupportedRole = "unsupported_role", 400, Client, false;
    /// A content part that does not pass.
    UnsupportedContent = "unsupported_content", 400, Client, false;
    /// A model that is not on the list.
    ModelNotAllowed = "model_not_allowed", 400, Client, false;
    /// `user` is no name.
    UserInvalid = "user_invalid", 400, Client, false;
    /// Not an intent of the configuration.
    IntentUnknown = "intent_unknown", 400, Client, false;
    /// `input` is not what the intent takes.
    InputInvalid = "input_invalid", 400, Client, false;
    /// More text than the intent takes.
    InputTooLong = "input_too_long", 413, Client, false;
    /// Not a schema of the configuration.
    SchemaUnknown = "schema_unknown", 400, Client, false;
    /// No turn of this caller's has that id, or not any more.
    TurnUnknown = "turn_unknown", 404, Client, false;
    /// Not a name that a request may have.
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, Client, false;
    /// Another request had that key.
    IdempotencyConflict = "idempotency_conflict", 422, Client, false;
    /// The events that are asked for are not kept any more.
    EventsGone = "events_gone", 410, Policy, false;
    /// Its person did not want the turn any more.
    TurnCancelled = "turn_cancelled", 409, Policy, false;
    /// The turn's time was over before it ended.
    TurnExpired = "turn_expired", 504, Policy, true;
    /// The gateway was interrupted, and what the agent did until then is not known.
    Interrupted = "interrupted", 502, Upstream, false;
    /// Something was being done, and nobody knows whether it was.
    ActionUnknown = "action_unknown", 502, Upstream, false;
    /// Nothing is asked there, or not any more.
    ApprovalGone = "approval_gone", 410, Client, false;
    /// Somebody else is asked.
    ApprovalForbidden = "approval_forbidden", 403, Policy, false;
    /// Not a word that a question takes.
    DecisionUnknown = "decision_unknown", 400, Client, false;
    /// Not the grant that was shown.
    GrantInvalid = "grant_invalid", 409, Client, false;
    /// No rollout of the configuration is the intent's.
    RolloutUnknown = "rollout_unknown", 404, Client, false;
    /// Not an order that a rollout takes.
    OrderUnknown = "order_unknown", 400, Client, false;
    /// A configuration with mistakes.
    ConfigurationInvalid = "configuration_invalid", 422, Client, false;
    /// No such version is remembered.
    ConfigurationUnknown = "configuration_unknown", 404, Client, false;
    /// The intent is for other roles.
    ProfileForbidden = "profile_forbidden", 403, Policy, false;
    /// The environment does not allow the intent's profile.
    ProfileNotAllowed = "profile_not_allowed", 503, Configuration, false;
    /// The day's requests or tokens are used up.
    BudgetExhausted = "budget_exhausted", 429, Policy, true;
    /// The answer is not what its schema wants, after a second try.
    AnswerInvalid = "answer_invalid", 502, Upstream, true;
    /// More attachments than allowed.
    TooManyAttachments = "too_many_attachments", 400, Client, false;
    /// An attachment without bytes.
    AttachmentDataMissing = "attachment_data_missing", 400, Client, false;
    /// A path on the phone.
    AttachmentLocalPath = "attachment_local_path", 400, Client, false;
    /// A link in place of bytes.
    AttachmentUrlUnsupported = "attachment_url_unsupported", 400, Client, false;
    /// Not base64.
    AttachmentBase64Invalid = "attachment_base64_invalid", 400, Client, false;
    /// No bytes.
    AttachmentEmpty = "attachment_empty", 400, Client, false;
    /// A text file that is not UTF-8 text.
    AttachmentTextInvalid = "attachment_text_invalid", 400, Client, false;
    /// Too many bytes.
    AttachmentTooLarge = "attachment_too_large", 413, Client, false;
    /// Too many characters: OpenClaw would cut them off in silence.
    AttachmentTextTooLong = "attachment_text_too_long", 413, Client, false;
    /// Too many pages: OpenClaw would drop them in silence.
    AttachmentTooManyPages = "attachment_too_many_pages", 413, Client, false;
    /// Not a kind that OpenClaw reads.
    AttachmentTypeUnsupported = "attachment_type_unsupported", 415, Client, false;
    /// The bytes are not what the label says.
    AttachmentTypeMismatch = "attachment_type_mismatch", 415, Client, false;
    /// The body ended early.
    BodyIncomplete = "body_incomplete", 400, Client, true;
    /// No valid key.
    Unauthorized = "unauthorized", 401, Client, false;
    /// A page that is not this gateway's own asks, or one that does not say so.
    CsrfInvalid = "csrf_invalid", 403, Client, false;
    /// Nothing is known of that trace, or it is not the caller's.
    TraceUnknown = "trace_unknown", 404, Client, false;
    /// No such route.
    NotFound = "not_found", 404, Client, false;
    /// Another method is wanted.
    MethodNotAllowed = "method_not_allowed", 405, Client, false;
    /// The body did not arrive in time.
    BodyTimeout = "body_timeout", 408, Client, true;
    /// The body is over the limit.
    BodyTooLarge = "body_too_large", 413, Client, false;
    /// Not JSON by its label.
    UnsupportedMediaType = "unsupported_media_type", 415, Client, false;
    /// A token that is not one of ours, or was revoked.
    TokenInvalid = "token_invalid", 401, Client, false;
    /// A token that has had its time.
    TokenExpired = "token_expired", 401, Client, false;
    /// Not a code of `wx.login`, or one of more than five minutes ago.
    LoginCodeInvalid = "login_code_invalid", 401, Client, false;
    /// A code of `wx.login` that was used before.
    LoginCodeUsed = "login_code_used", 401, Client, false;
    /// A pushed message that WeChat did not sign, or long ago.
    PushNotSigned = "push_not_signed", 401, Client, false;
    /// WeChat holds the account for risky.
    LoginBlocked = "login_blocked", 403, Policy, false;
    /// A login that this server does not offer.
    LoginUnavailable = "login_unavailable", 501, Configuration, false;
    /// The text or picture is not fit to be passed on.
    ContentRefused = "content_refused", 400, Policy, false;
    /// The text or picture could not be checked, and the settings say to refuse then.
    ContentUnchecked = "content_unchecked", 503, Upstream, true;
    /// WeChat's servers failed, or are at a limit.
    WechatUnavailable = "wechat_unavailable", 503, Upstream, true;
    /// WeChat's servers refuse this gateway.
    WechatMisconfigured = "wechat_misconfigured", 502, Configuration, false;
    /// Blocked for a time.
    Blocked = "blocked", 429, Policy, true;
    /// No place in the queue, or a turn that would come too late.
    QueueFull = "queue_full", 503, Policy, true;
    /// In the queue until the deadline.
    QueueTimeout = "queue_timeout", 503, Policy, true;
    /// The breaker is open.
    UpstreamUnavailable = "upstream_unavailable", 503, Upstream, true;
    /// Too often.
    RateLimited = "rate_limited", 429, Policy, true;
    /// OpenClaw or the model refused the content.
    UpstreamRefusedRequest = "upstream_refused_request", 400, Upstream, false;
    /// No connection to OpenClaw.
    UpstreamUnreachable = "upstream_unreachable", 502, Upstream, true;
    /// OpenClaw failed.
    UpstreamError = "upstream_error", 502, Upstream, true;
    /// OpenClaw's answer broke off or is not what it should be.
    UpstreamProtocol = "upstream_protocol", 502, Upstream, true;
    /// OpenClaw answered nothing.
    UpstreamEmpty = "upstream_empty", 502, Upstream, true;
    /// OpenClaw refuses this gateway.
    UpstreamMisconfigured = "upstream_misconfigured", 502, Configuration, false;
    /// The model's provider refuses OpenClaw.
    ModelUnavailable = "model_unavailable", 502, Configuration, true;
    /// At a limit behind this gateway.
    UpstreamOverloaded = "upstream_overloaded", 503, Upstream, true;
    /// Too slow.
    UpstreamTimeout = "upstream_timeout", 504, Upstream, true;
    /// Not a model of the model gateway.
    ModelNotFound = "model_not_found", 404, Client, false;
    /// More than the model holds.
    ContextLengthExceeded = "context_length_exceeded", 400, Client, false;
    /// The store failed, and the settings say to refuse then.
    StoreUnavailable = "store_unavailable", 503, Configuration, true;
    /// A defect.
    Internal = "internal", 500, Bug, true;
}

impl Code {
    /// The `type` of the error body.
    fn kind(self) -> &'static str {
        match (self, self.blame()) {
            (
                Self::Unauthorized
                | Self::TokenExpired
                | Self::TokenInvalid
                | Self::LoginCodeInvalid
                | Self::LoginCodeUsed
                | Self::PushNotSigned,
                _,
            ) => "authentication",
            (Self::RateLimited | Self::Blocked, _) => "rate_limit",
            (_, Blame::Client) => "invalid_request",
            (_, Blame::Policy) => "policy",
            (_, Blame::Upstream | Blame::Configuration) => "upstream",
            (_, Blame::Bug) => "internal",
        }
    }

    /// Whether only a client that is broken or curious sends such a request.
    pub(crate) fn is_clients_mistake(self) -> bool {
        self.blame() == Blame::Client && !self.retryable()
    }

    /// How a request that ended so is logged.
    pub(crate) fn level(self) -> Level {
        match self.blame() {
            Blame::Client | Blame::Policy => Level::Info,
            Blame::Upstream => Level::Warn,
            Blame::Configuration | Blame::Bug => Level::Error,
        }
    }

    /// What a person may read, in Chinese and English.
    pub(crate) fn answer(self) -> (&'static str, &'static str) {
        match self {
            Self::Unauthorized | Self::TokenInvalid | Self::TokenExpired => {
                ("登录已失效，请重新打开小程序。", "Please reopen the app and sign in again.")
            }
            Self::LoginCodeInvalid | Self::LoginCodeUsed => {
                ("登录已过期，请重试。", "The sign-in has expired. Please try again.")
            }
            Self::LoginBlocked => (
                "微信认为此账号存在风险，暂时无法登录。",
                "WeChat does not let this account sign in for now.",
            ),
            Self::ContentRefused => (
                "内容可能不符合规范，请修改后再试。",
                "The content may break the rules. Please change it and try again.",
            ),
            Self::WechatUnavailable => {
                ("微信服务繁忙，请稍后再试。", "WeChat is busy. Please try again in a moment.")
            }
            Self::Blocked => {
                ("操作异常，已暂时限制使用，请稍后再试。", "Unusual activity. Please try again later.")
            }
            Self::RateLimited => ("操作太频繁了，请稍后再试。", "Too many requests. Please wait a moment."),
            Self::AttachmentTooLarge | Self::BodyTooLarge => {
                ("文件太大了，请换一个小一点的再试。", "The file is too large. Please choose a smaller one.")
            }
            Self::AttachmentTextTooLong | Self::AttachmentTooManyPages => {
                ("文件太长了，请截取一部分再试。", "The file is too long. Please send a part of it.")
            }
            Self::AttachmentTypeUnsupported | Self::AttachmentTypeMismatch | Self::AttachmentTextInvalid => (
                "暂不支持这种文件，请换一种格式。",
                "This kind of file is not supported. Please choose another.",
            ),
            Self::TooManyAttachments => {
                ("附件太多了，请减少后再试。", "Too many attachments. Please remove some.")
            }
            Self::InputTooLong => {
                ("内容太长了，请缩短后再试。", "The text is too long. Please shorten it and try again.")
            }
            Self::ProfileForbidden => {
                ("当前账号暂无此功能的使用权限。", "Your account does not have access to this feature.")
            }
            Self::BudgetExhausted => {
                ("今天的使用次数已用完，请明天再试。", "Today's quota is used up. Please come back tomorrow.")
            }
            Self::MessageEmpty | Self::MessagesEmpty => ("请输入内容。", "Please enter a message."),
            Self::UpstreamRefusedRequest => (
                "这个请求无法处理，请换个说法再试。",
                "This request cannot be processed. Please rephrase it.",
            ),
            Self::ActionUnknown | Self::Interrupted => (
                "操作结果未知，请先核实再重试。",
                "It is not known whether this was done. Please check before you try again.",
            ),
            Self::ApprovalGone | Self::GrantInvalid => {
                ("该确认已失效，请刷新后再试。", "This question is no longer open. Please refresh.")
            }
            Self::TurnCancelled => ("已取消。", "Cancelled."),
            Self::UpstreamTimeout | Self::BodyTimeout => {
                ("响应超时了，请稍后再试。", "It took too long. Please try again later.")
            }
            Self::UpstreamOverloaded | Self::QueueFull | Self::QueueTimeout => {
                ("现在使用的人太多了，请稍后再试。", "The service is busy. Please try again later.")
            }
            _ => match self.blame() {
                Blame::Client => {
                    ("请求有误，请更新小程序后再试。", "The request is not valid. Please update the app.")
                }
                _ => ("服务暂时不可用，请稍后再试。", "The service is unavailable. Please try again later."),
            },
        }
    }
}

/// One failed request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What.
    pub code: Code,
    /// Details for a developer, in English, about their own input or in our words.
    pub message: String,
    /// Seconds after which it may be tried again.
    pub retry_after_s: Option<u64>,
    /// How many requests wait for the agent.
    pub waiting: Option<u32>,
}

impl Failure {
    /// A failure with its details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_s: None, waiting: None }
    }

    /// Adds the time to wait.
    #[must_use]
    pub fn after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds the length of the queue.
    #[must_use]
    pub fn behind(mut self, waiting: u32) -> Self {
        self.waiting = Some(waiting);
        self
    }

    /// The JSON body, also used as the last event of a stream.
    pub fn body(&self, trace_id: &str, language: Language) -> String {
        let (zh, en) = self.code.answer();
        let answer = match language {
            Language::Zh => zh,
            Language::En => en,
        };
        let mut out = String::with_capacity(256);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"{{"error":{{"code":"{}","message":{},"type":"{}","retryable":{}"#,
            self.code.name(),
            json::string(&self.message),
            self.code.kind(),
            self.code.retryable(),
        );
        if let Some(waiting) = self.waiting {
            let _ = write!(out, r#","queue":{{"waiting":{waiting}}}"#);
        }
        let _ =
            write!(out, r#"}},"traceId":{},"answer":{}}}"#, json::string(trace_id), json::string(answer),);
        out
    }

    /// The JSON body in OpenAI's form, also used as the last event of a stream.
    pub fn openai_body(&self, trace_id: &str) -> String {
        let kind = match self.code.status() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let param = match self.code {
            Code::ModelNotFound => "\"model\"",
            Code::ContextLengthExceeded => "\"messages\"",
            _ => "null",
        };
        format!(
            r#"{{"error":{{"message":{},"type":"{kind}","param":{param},"code":"{}","traceId":{}}}}}"#,
            json::string(&self.message),
            self.code.name(),
            json::string(trace_id),
        )
    }
}

/// The language of the texts that a person reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Language {
    /// Simplified Chinese.
    #[default]
    Zh,
    /// English.
    En,
}

impl Language {
    /// By `Accept-Language`: English when its first range is English.
    pub fn accepted(header: Option<&str>) -> Self {
        let first = header.and_then(|value| value.split(',').next()).unwrap_or_default().trim();
        if first.get(..2).is_some_and(|lang| lang.eq_ignore_ascii_case("en")) { Self::En } else { Self::Zh }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn every_body_is_json_and_complete() {
        for code in Code::ALL {
            for language in [Language::Zh, Language::En] {
                let body = Failure::new(*code, "a \"quoted\"\nmessage").body("t-1", language);
                let value: serde_json::Value = serde_json::from_str(&body).expect("json");
                assert_eq!(value["error"]["code"], code.name());
                assert_eq!(value["traceId"], "t-1");
                assert!(value["answer"].as_str().is_some_and(|text| !text.is_empty()));
            }
            let body = Failure::new(*code, "a \"quoted\"\nmessage").openai_body("t-1");
            let value: serde_json::Value = serde_json::from_str(&body).expect("json");
            assert_eq!(
                (&value["error"]["code"], &value["error"]["traceId"]),
                (&code.name().into(), &"t-1".into())
            );
        }
    }

    #[test]
    fn names_are_unique_and_statuses_are_errors() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }

    #[test]
    fn what_a_new_login_cures_is_called_authentication() {
        let of_people = |code: &&Code| code.status() == 401 && **code != Code::PushNotSigned;
        for code in Code::ALL.iter().filter(of_people) {
            assert_eq!(code.kind(), "authentication", "{code:?}");
            let (zh, en) = code.answer();
            assert!(zh.contains("登录") && en.contains("sign"), "{code:?}");
        }
    }

    #[test]
    fn the_first_language_range_decides() {
        assert_eq!(Language::accepted(Some("en-US,zh;q=0.9")), Language::En);
        for header in [None, Some(""), Some("zh-CN,en"), Some("é")] {
            assert_eq!(Language::accepted(header), Language::Zh);
        }
    }
}
