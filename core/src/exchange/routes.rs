//! What is served: every route, its methods, and whom it is for.

use serde::{Deserialize, Serialize};

use super::{approvals, configuration, page, trace, turns};
use crate::{
    policy::{Policy, channel},
    wire::{dingtalk::link::LONGEST_FRAME, picture},
};

/// The most bytes of a body that is not a conversation.
const SMALL_BODY: u64 = 16 * 1024;
/// The most bytes of a message to a robot: pictures and files are not in it. What came in a frame is answered
/// before it comes here, so all that a frame can hold is taken.
const ROBOT_BODY: u64 = LONGEST_FRAME as u64;

/// Before the name of one model.
pub(super) const MODEL_PATH: &str = "/v1/models/";

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Route {
    Chat,
    /// An intent.
    Ask,
    /// How a turn stands.
    Turn,
    /// Its events.
    TurnEvents,
    /// Its end, before it ends by itself.
    CancelTurn,
    /// A code of `wx.login` for a token.
    Login,
    /// A token for a newer one.
    Renew,
    /// A token from the team's own backend.
    Token,
    /// The end of a person's tokens, or of a key's.
    Revoke,
    /// A picture that WeChat is to look at.
    Picture,
    /// A message that WeChat pushes.
    Push,
    /// A message to a robot.
    Robot,
    /// What a person is asked about the person's own turn.
    Approval,
    /// The person's word.
    Decide,
    /// What operators are asked.
    Approvals,
    /// An operator's word.
    OperatorDecides,
    /// A request to a model's own server, in OpenAI's form.
    Completions,
    /// The models that such a request may name.
    Models,
    /// One of them.
    Model,
    /// How the rollouts stand.
    Rollouts,
    /// An operator's words to a robot's group or person.
    Send,
    /// An order to a rollout: the same path with a body.
    Steer,
    /// Lines of the audit ledger.
    Ledger,
    /// An operator's key for a session.
    LogIn,
    /// Who holds a session.
    WhoAmI,
    /// A session's end.
    LogOut,
    /// Everything at this moment, for an operator's page.
    Overview,
    /// What became of one request.
    Trace,
    /// What a person says of an answer.
    Rate,
    /// What people said.
    Feedback,
    /// Which configurations were taken, or what one of them says.
    Configuration,
    /// Another one: the same path with a body.
    Configure,
    /// An earlier one.
    RollBack,
    Health,
    Ready,
    Version,
    /// What was counted, for Prometheus.
    Metrics,
    Unknown,
    /// A file of the operator's page.
    Page,
}

/// Whom a route serves, and so which credential it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// A person, by a token or a client key, or on the way to a token.
    Person,
    /// The team's own server, by its key.
    Backend,
    /// An operator, by a key or a session.
    Operator,
    /// Whoever collects figures.
    Scraper,
    /// A program that speaks OpenAI's API, by its token.
    Program,
    /// WeChat or DingTalk, whose requests prove themselves.
    Platform,
    /// Everybody.
    Anyone,
}

/// What is fixed about a route.
struct Service {
    name: &'static str,
    methods: &'static str,
    audience: Audience,
}

impl Route {
    pub(super) fn of(method: &str, path: &str) -> Self {
        match path {
            "/api/chat" => Self::Chat,
            "/v1/mini/ask" | "/v1/mini/ai" => Self::Ask,
            "/v1/mini/login" => Self::Login,
            "/v1/mini/token/renew" => Self::Renew,
            "/v1/mini/token" => Self::Token,
            "/v1/admin/sessions/revoke" => Self::Revoke,
            "/v1/wechat/push" => Self::Push,
            path if path.starts_with(channel::PATH) => Self::Robot,
            path if path.starts_with(picture::PREFIX) => Self::Picture,
            path if path.starts_with(turns::PATH) && path.ends_with(turns::EVENTS) => Self::TurnEvents,
            path if path.starts_with(turns::PATH) && method == "DELETE" => Self::CancelTurn,
            path if path.starts_with(turns::PATH) => Self::Turn,
            path if path.starts_with(approvals::MINE) && method == "POST" => Self::Decide,
            path if path.starts_with(approvals::MINE) => Self::Approval,
            approvals::ALL => Self::Approvals,
            path if path.starts_with(approvals::ALL) && approvals::named(path).is_some() => match method {
                "POST" => Self::OperatorDecides,
                _ => Self::Approvals,
            },
            "/v1/admin/audit" => Self::Ledger,
            "/v1/admin/session" => match method {
                "POST" => Self::LogIn,
                "DELETE" => Self::LogOut,
                _ => Self::WhoAmI,
            },
            "/v1/admin/overview" => Self::Overview,
            "/v1/mini/feedback" => Self::Rate,
            "/v1/admin/feedback" => Self::Feedback,
            path if path.starts_with(trace::PATH) => Self::Trace,
            configuration::PATH if method == "PUT" => Self::Configure,
            configuration::PATH => Self::Configuration,
            configuration::ROLLBACK => Self::RollBack,
            path if configuration::named(path).is_some() => Self::Configuration,
            "/v1/chat/completions" => Self::Completions,
            "/v1/models" => Self::Models,
            path if path.starts_with(MODEL_PATH) => Self::Model,
            "/v1/admin/send" => Self::Send,
            "/v1/admin/rollouts" if method == "POST" => Self::Steer,
            "/v1/admin/rollouts" => Self::Rollouts,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            path if page::is_one(path) => Self::Page,
            _ => Self::Unknown,
        }
    }

    /// Everything that is fixed about a route, in one place: a new one cannot be without any of it.
    fn service(self) -> Service {
        use Audience::{Anyone, Backend, Operator, Person, Platform, Program, Scraper};
        let (name, methods, audience) = match self {
            Self::Chat => ("/api/chat", "POST", Person),
            Self::Ask => ("/v1/mini/ask", "POST", Person),
            Self::Turn | Self::CancelTurn => ("/v1/mini/turns", "GET, DELETE", Person),
            Self::TurnEvents => ("/v1/mini/turns/events", "GET", Person),
            Self::Approval | Self::Decide => ("/v1/mini/approvals", "GET, POST", Person),
            Self::Rate => ("/v1/mini/feedback", "POST", Person),
            Self::Login => ("/v1/mini/login", "POST", Person),
            Self::Renew => ("/v1/mini/token/renew", "POST", Person),
            Self::Token => ("/v1/mini/token", "POST", Backend),
            Self::Picture => ("/v1/wechat/media", "GET, HEAD", Platform),
            Self::Push => ("/v1/wechat/push", "GET, POST", Platform),
            Self::Robot => ("/dingtalk", "POST", Platform),
            Self::Completions => ("/v1/chat/completions", "POST", Program),
            Self::Models | Self::Model => ("/v1/models", "GET", Program),
            Self::Revoke => ("/v1/admin/sessions/revoke", "POST", Operator),
            Self::Approvals | Self::OperatorDecides => ("/v1/admin/approvals", "GET, POST", Operator),
            Self::Rollouts | Self::Steer => ("/v1/admin/rollouts", "GET, POST", Operator),
            Self::Send => ("/v1/admin/send", "POST", Operator),
            Self::Ledger => ("/v1/admin/audit", "GET", Operator),
            Self::LogIn | Self::WhoAmI | Self::LogOut => ("/v1/admin/session", "GET, POST, DELETE", Operator),
            Self::Overview => ("/v1/admin/overview", "GET", Operator),
            Self::Trace => ("/v1/admin/trace", "GET", Operator),
            Self::Feedback => ("/v1/admin/feedback", "GET", Operator),
            Self::Configuration | Self::Configure => (configuration::PATH, "GET, PUT", Operator),
            Self::RollBack => (configuration::ROLLBACK, "POST", Operator),
            Self::Metrics => ("/metrics", "GET", Scraper),
            Self::Health => ("/healthz", "GET, HEAD", Anyone),
            Self::Ready => ("/readyz", "GET, HEAD", Anyone),
            Self::Version => ("/version", "GET, HEAD", Anyone),
            Self::Page => (page::PATH, "GET, HEAD", Anyone),
            Self::Unknown => ("unknown", "", Anyone),
        };
        Service { name, methods, audience }
    }

    /// The name in logs: a path that a client made up is not repeated there.
    pub(super) fn name(self) -> &'static str {
        self.service().name
    }

    /// The methods, as `Allow` lists them.
    pub(super) fn methods(self) -> &'static str {
        self.service().methods
    }

    /// Whom it serves.
    pub(super) fn audience(self) -> Audience {
        self.service().audience
    }

    /// Whether it is asked by machines that watch, and not by users.
    pub(super) fn is_operational(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Version | Self::Metrics)
    }

    /// Whether it wants one of the operator's own keys, which lie in no phone.
    pub(super) fn is_operators(self) -> bool {
        use Audience::{Backend, Operator, Program, Scraper};
        matches!(self.audience(), Operator | Backend | Program | Scraper)
    }

    /// Whether an operator's session opens it as well as the key.
    pub(super) fn takes_session(self) -> bool {
        matches!(self.audience(), Audience::Operator | Audience::Scraper)
    }

    /// Whether a page asks for it every few seconds: nobody wants to read that it did.
    pub(super) fn is_polled(self) -> bool {
        matches!(self, Self::Overview | Self::WhoAmI)
    }

    /// Whether its callers are programs that know OpenAI's form of an error.
    pub(super) fn is_openai(self) -> bool {
        self.audience() == Audience::Program
    }

    /// Whether it is about a turn that was begun before.
    pub(super) fn is_about_a_turn(self) -> bool {
        matches!(self, Self::Turn | Self::TurnEvents | Self::CancelTurn | Self::Approval | Self::Decide)
    }

    /// Whether it leads to an agent or to a person, which a mere model gateway has none of.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self.audience(), Audience::Person | Audience::Backend)
    }

    /// Whether what is sent there counts for or against its sender. What is WeChat's or DingTalk's
    /// proves itself, and costs nothing where it does not.
    pub(super) fn is_guarded(self) -> bool {
        !matches!(self.audience(), Audience::Platform | Audience::Anyone)
    }

    /// The most bytes of a body.
    pub(super) fn body_limit(self, policy: &Policy) -> u64 {
        match self {
            Self::Chat | Self::Ask | Self::Completions => policy.limits.body,
            Self::Robot => ROBOT_BODY,
            Self::Configure => configuration::MOST_BYTES,
            _ => SMALL_BODY,
        }
    }

    pub(super) fn allows(self, method: &str) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method)
    }
}
