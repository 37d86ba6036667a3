//! Every key of the configuration: its name, what it may be and what it is for.

use crate::shape::{Key, Shape, key, required};

const HOUR_MS: i64 = 3_600_000;
/// What JavaScript still counts exactly.
pub(crate) const MAX_INTEGER: i64 = 9_007_199_254_740_991;
/// The most characters of a text.
pub(crate) const MAX_CHARS: i64 = 1_000_000;
const MAX_TOKENS: i64 = 10_000_000;

/// A whole file.
pub(crate) const FILE: Shape = Shape::Section(&[
    key(
        "profiles",
        Shape::Named(&Shape::Name, &PROFILE),
        "How questions are answered: a prompt, a model, limits.",
    ),
    key("routing", Shape::Open(ROUTING, &INTENT), "Which profile answers which intent."),
    key("models", Shape::Named(&Shape::Name, &MODEL), "What the aliases in profiles stand for."),
    key("limits", Shape::Section(LIMITS), "What everybody may use."),
    key(
        "environments",
        Shape::Named(&Shape::Word(ENVIRONMENTS), &Shape::Object(ENVIRONMENT)),
        "What differs between dev, staging and prod.",
    ),
    key("channels", Shape::Named(&Shape::Name, &CHANNEL), "Robots that people talk to."),
    key("notify", Shape::Section(NOTIFY), "Who is told of what turns come to."),
    key("roles", Shape::Named(&Shape::Role, &Shape::Object(ROLE)), "What people of a role may use."),
    key("schemas", Shape::Named(&Shape::Name, &SCHEMA), "JSON Schemas of answers, by name."),
    key(
        "tools",
        Shape::Named(&Shape::Tool, &Shape::Object(TOOL)),
        "What models may ask your own servers to do.",
    ),
    key("turns", Shape::Section(TURNS), "How long turns are kept."),
    key("audit", Shape::Section(AUDIT), "The ledger of what was asked, approved and done."),
    key(
        "redaction",
        Shape::Section(REDACTION),
        "What is taken out of logs, and out of answers of profiles with `redact`.",
    ),
    key("faq", Shape::List(&Shape::Object(FAQ)), "Answers that you wrote yourself."),
]);

pub(crate) const ENVIRONMENTS: &[&str] = &["dev", "staging", "prod"];

const PROFILE: Shape = Shape::Object(&[
    key("model", Shape::Name, "The alias of its model; without one, routing.defaults.model."),
    key("system_prompt", Shape::Text, "The server's own words to the model."),
    key("prompt", Shape::Text, "The person's message: a template with {{field}} for fields of `input`."),
    key(
        "input",
        Shape::Named(&Shape::Name, &FIELD),
        "The fields that a request may give. Without it: text, maxBullets, schemaName, language.",
    ),
    key("max_tokens", Shape::Integer(1, 1_000_000), "The most tokens of an answer."),
    key("temperature", Shape::Decimal(0.0, 2.0), "0 is the steadiest."),
    key("timeout_ms", Shape::Integer(100, HOUR_MS), "The whole turn's time; without it, TURN_TIMEOUT_MS."),
    key("fallback", Shape::Name, "The profile that answers when this one fails."),
    key("draft", Shape::Name, "The profile that answers first, while this one works."),
    key(
        "memory",
        Shape::Word(&["client", "gateway"]),
        "Who remembers the conversation: the phone sends it, or OpenClaw keeps it.",
    ),
    key("cache", Shape::Either(&[TTL, Shape::Object(CACHE)]), "Keeps answers to the same question."),
    key(
        "sync_deadline_ms",
        Shape::Integer(100, HOUR_MS),
        "After so long a client that waits is told to come back for the answer.",
    ),
    key("roles", Shape::List(&Shape::Role), "Who may use it; without it, everybody."),
    key("output", Shape::Word(&["text", "json"]), "What an answer is."),
    key("schema", Shape::Name, "What a JSON answer must look like, when the request names no schema."),
    key("redact", Shape::Boolean, "Takes personal data and keys out of answers."),
    key("context_tokens", Shape::Integer(1, MAX_TOKENS), "The most tokens of history and text together."),
    key("long_input", Shape::Word(&["refuse", "cut"]), "What is done with a text that is too long."),
    key("max_chars", Shape::Integer(1, MAX_CHARS), "The most characters of the text; 20000 without it."),
    key(
        "cost",
        Shape::Integer(1, 10_000),
        "What a request costs in tokens of the rate, and how dear it is beside others; 1 without it.",
    ),
    key("attachments", Shape::Boolean, "Whether pictures and files may be sent along."),
    key(
        "tools",
        Shape::List(&Shape::Tool),
        "The tools that its model is offered, beside the agent's own, which are set in OpenClaw.",
    ),
    key("max_tool_calls", Shape::Integer(1, 32), "The most calls of tools in one turn; 8 without it."),
]);

const TTL: Shape = Shape::Duration(1, 30 * 86_400);

const CACHE: &[Key] = &[
    required("ttl", TTL, "How long an answer is kept."),
    key(
        "shared",
        Shape::Boolean,
        "Whether people share what is kept: only for questions with nothing personal.",
    ),
];

const FIELD: Shape =
    Shape::Either(&[Shape::Word(&["text", "integer", "boolean"]), CHOICES, Shape::Object(FIELD_KEYS)]);
const CHOICES: Shape = Shape::List(&Shape::Text);

const FIELD_KEYS: &[Key] = &[
    required(
        "type",
        Shape::Either(&[Shape::Word(&["text", "integer", "boolean"]), CHOICES]),
        "What it may hold.",
    ),
    key("max_chars", Shape::Integer(1, MAX_CHARS), "Of a text: the most characters."),
    key("min", Shape::Integer(-MAX_INTEGER, MAX_INTEGER), "Of a number: the least."),
    key("max", Shape::Integer(-MAX_INTEGER, MAX_INTEGER), "Of a number: the most."),
    key("required", Shape::Boolean, "Whether it must be there."),
];

const ROUTING: &[Key] = &[
    key("mini_intents", Shape::Named(&Shape::Name, &INTENT), "Intents, as directly under `routing`."),
    key("defaults", Shape::Section(DEFAULTS), "For what says nothing itself."),
];

const DEFAULTS: &[Key] = &[key("model", Shape::Name, "The alias for profiles without a model.")];

const INTENT: Shape = Shape::Either(&[Shape::Name, Shape::Object(INTENT_KEYS)]);

const INTENT_KEYS: &[Key] = &[
    required("profile", Shape::Name, "Who answers it."),
    key("roles", Shape::Named(&Shape::Role, &Shape::Name), "Who answers it for people of a role."),
    key(
        "max_tokens",
        Shape::Integer(1, 1_000_000),
        "The most tokens of an answer, whatever the profile says.",
    ),
    key(
        "notify",
        Shape::List(&Shape::Word(&["webhook", "subscribe"])),
        "Who is told of what its turns come to; nobody without it.",
    ),
    key("rollout", Shape::Object(ROLLOUT), "Brings a new version of the profile to people by steps."),
];

const ROLLOUT: &[Key] = &[
    required("to", Shape::Name, "The profile that is to answer."),
    key("salt", Shape::Text, "Another salt is another draw of people, from the first step."),
    key("steps", Shape::List(&Shape::Object(STEP)), "Without them: 5, 25 and 50 percent, an hour each."),
    key("guard", Shape::Object(GUARD), "What makes it go back by itself."),
];

const STEP: &[Key] = &[
    required("percent", Shape::Decimal(0.01, 100.0), "People with the new version."),
    key("at_least", Shape::Duration(1, 30 * 86_400), "At least so long; an hour without it."),
    key("turns", Shape::Integer(0, 1_000_000_000), "At least so many turns of the new version."),
];

const OFF: Shape = Shape::Word(&["off"]);
const POINTS: Shape = Shape::Either(&[Shape::Decimal(0.01, 100.0), OFF]);
const PERCENT: Shape = Shape::Either(&[Shape::Integer(100, 10_000), OFF]);

const GUARD: &[Key] = &[
    key("failed", POINTS, "Percent of all turns that may fail more than now; 1 without it."),
    key("empty", POINTS, "The same for empty answers."),
    key("schema", POINTS, "The same for answers that are not as their schema says."),
    key("p95", PERCENT, "The p95 of the time, in percent of the present one; 150 without it."),
    key("tokens", PERCENT, "The mean of the tokens, likewise."),
    key(
        "down",
        POINTS,
        "Percent of the answers that people rated, which may be rated down more than now; 10 without it.",
    ),
];

const CHANNEL: Shape = Shape::Kinds(&[("dingtalk", DINGTALK)]);

const DINGTALK: &[Key] = &[
    required("kind", Shape::Word(&["dingtalk"]), "A robot of DingTalk."),
    required("robot_code", Shape::Name, "The robot's code."),
    required("app_key", Shape::Secret, "The setting with the app's key, as ${DINGTALK_APP_KEY}."),
    required("app_secret", Shape::Secret, "The setting with the app's secret, as ${DINGTALK_APP_SECRET}."),
    key(
        "mode",
        Shape::Word(&["http", "stream"]),
        "How messages come: DingTalk calls this gateway, or it opens a socket to DingTalk (stream).",
    ),
    key("intent", Shape::Name, "Whoever answers this intent answers here."),
    key("profile", Shape::Name, "Or this profile."),
    key("reply", Shape::Word(&["markdown", "text"]), "What answers are; markdown."),
    key("ack", Shape::Text, "What is said while the answer is made; nothing without it."),
    key("ack_after_ms", Shape::Integer(0, 60_000), "After how long that is said; at once without it."),
    key(
        "timeout_ms",
        Shape::Integer(1_000, HOUR_MS),
        "After how long it is said that there is no answer; 55000.",
    ),
    key("failed", Shape::Text, "What is said when there is no answer."),
    key(
        "targets",
        Shape::Named(&Shape::Name, &Shape::Object(TARGET)),
        "To whom `minigate send` speaks, by names.",
    ),
];

const TARGET: &[Key] = &[
    key("conversation", Shape::Text, "A group: its openConversationId, cid…"),
    key("person", Shape::Text, "A person: the staff id."),
    key("webhook", Shape::Secret, "A group's own robot: the setting with the webhook's access_token."),
];

const NOTIFY: &[Key] = &[
    key("webhook", Shape::Object(WEBHOOK), "The team's own backend, by signed messages."),
    key("subscribe", Shape::Object(SUBSCRIBE), "The person, by WeChat's subscribe message."),
];

const EVENTS: Key = key(
    "events",
    Shape::List(&Shape::Word(&["needs_approval", "done", "failed", "cancelled", "expired"])),
    "What is told; all of it without this.",
);

const WEBHOOK: &[Key] = &[
    required("url", Shape::Text, "https, or http within the machine or a private network."),
    required(
        "secret",
        Shape::Secret,
        "The setting with the signing secret, whsec_..., as ${WEBHOOK_SECRET}.",
    ),
    EVENTS,
];

const SUBSCRIBE: &[Key] = &[
    required("template_id", Shape::Text, "The template's id, as WeChat's console shows it."),
    key("page", Shape::Text, "The page that a tap opens, as pages/job/job?id={{requestId}}."),
    key("state", Shape::Word(&["developer", "trial", "formal"]), "The version of the Mini Program; formal."),
    key("lang", Shape::Word(&["zh_CN", "en_US", "zh_HK", "zh_TW"]), "Its language; zh_CN."),
    key("names", Shape::Named(&Shape::Name, &Shape::Text), "What people read in place of an intent's name."),
    key(
        "show_question",
        Shape::Boolean,
        "Whether {{title}} may show the first words of a question on a locked screen.",
    ),
    required(
        "data",
        Shape::Named(&Shape::Name, &Shape::Text),
        "The template's fields by their names, as thing1, with {{intent}}, {{state}}, {{time}}, {{requestId}}.",
    ),
    EVENTS,
];

const REDACTION: &[Key] = &[
    key("mobile", Shape::Boolean, "Mobile numbers; on without it, as the four below."),
    key("id_card", Shape::Boolean, "Numbers of resident identity cards."),
    key("bank_card", Shape::Boolean, "Numbers of bank cards."),
    key("email", Shape::Boolean, "E-mail addresses."),
    key("secret", Shape::Boolean, "Keys, tokens, passwords."),
    key(
        "custom",
        Shape::Named(&Shape::Name, &Shape::Text),
        "Your own patterns, by the name that stands in their place.",
    ),
];

const MODEL: Shape = Shape::Kinds(&[("openclaw", OPENCLAW), ("openai_compatible", OPENAI)]);

const KIND: Shape = Shape::Word(&["openclaw", "openai_compatible"]);
const SIDE_EFFECTS: Key = key(
    "side_effects",
    Shape::Word(&["none", "possible"]),
    "Whether its own tools may have acted when a run breaks off. Without it, possible with OpenClaw only.",
);
const MODEL_TIMEOUT: Key = key("timeout_ms", Shape::Integer(100, HOUR_MS), "The longest that it may take.");

const OPENCLAW: &[Key] = &[
    required("kind", KIND, "Behind OpenClaw."),
    key("agent", Shape::Name, "The agent; without it, OPENCLAW_AGENT or the default one."),
    key("model", Shape::Name, "`provider/model` in place of the agent's own."),
    MODEL_TIMEOUT,
    SIDE_EFFECTS,
];

const OPENAI: &[Key] = &[
    required("kind", KIND, "A server with OpenAI's API."),
    required(
        "base_url",
        Shape::Text,
        "Up to and with /v1. https, or http within the machine or a private network.",
    ),
    key("api_key", Shape::Secret, "The setting that holds its key, as ${LOCAL_MODEL_API_KEY}."),
    required("model", Shape::Name, "Its name there."),
    MODEL_TIMEOUT,
    SIDE_EFFECTS,
    key("replicas", Shape::List(&Shape::Text), "Base URLs of other servers that answer as this one."),
    key(
        "context_tokens",
        Shape::Integer(256, MAX_TOKENS),
        "What it holds, request and answer together: of requests to /v1/chat/completions.",
    ),
    key("max_tokens", Shape::Integer(1, 1_000_000), "The most tokens of an answer to such a request."),
    key(
        "on_overflow",
        Shape::Word(&["refuse", "trim"]),
        "What is done with a conversation that it does not hold: refused, or its oldest turns left out.",
    ),
    key("fallback", Shape::Name, "The model that answers such a request when this one fails."),
    key("warm_up", Shape::Boolean, "Its servers are asked one token when they have come (native host)."),
];

const REQUESTS: Key =
    key("requests_per_day", Shape::Integer(0, 1_000_000_000), "Requests in a day (China's time).");
const TOKENS: Key =
    key("tokens_per_day", Shape::Integer(0, 1_000_000_000_000), "Tokens in a day, in and out.");
const RATE: Key = key("rate", Shape::Rate, "Requests of one person, as 60/20: per minute and at once.");
const TOGETHER: Key =
    key("together", Shape::Object(&[REQUESTS, TOKENS]), "The same for all of them together.");

const LIMITS: &[Key] = &[
    key(
        "max_concurrency_per_model",
        Shape::Named(&Shape::Name, &Shape::Integer(1, 1024)),
        "Turns at once of a model, by its alias; of each replica, where it has several.",
    ),
    RATE,
    REQUESTS,
    TOKENS,
    TOGETHER,
];

const ENVIRONMENT: &[Key] = &[
    key(
        "allowed_profiles",
        Shape::List(&Shape::Name),
        "The profiles that may be used there; without it, all.",
    ),
    key(
        "log_level",
        Shape::Word(&["debug", "info", "warn", "error"]),
        "What is logged, unless LOG_LEVEL says otherwise.",
    ),
    key("limits", Shape::Object(&[RATE, REQUESTS, TOKENS]), "For one person."),
    key(
        "content_check",
        Shape::Word(&["off", "log", "enforce"]),
        "What WeChat's content check decides, unless CONTENT_CHECK says otherwise.",
    ),
];

const ROLE: &[Key] = &[
    RATE,
    key("weight", Shape::Integer(1, 1_000), "Its share when callers wait."),
    REQUESTS,
    TOKENS,
    TOGETHER,
    key("max_cost", Shape::Integer(1, 10_000), "The dearest profile that it may choose by a header."),
];

const SCHEMA: Shape = Shape::Either(&[Shape::Text, Shape::Free]);

/// The longest that something may wait or be kept: ten years.
const LONGEST_S: u32 = 3_650 * 86_400;

const TOOL: &[Key] = &[
    required("description", Shape::Text, "What it does: for the model, and for who approves."),
    required("parameters", SCHEMA, "The JSON Schema of its arguments, of type object."),
    required(
        "class",
        Shape::Word(&["read", "write", "destructive"]),
        "What it may change: nothing, what can be put right, what cannot.",
    ),
    required(
        "url",
        Shape::Text,
        "Where calls are sent. https, or http within the machine or a private network.",
    ),
    key("secret", Shape::Secret, "The setting that holds its server's key, as ${ORDERS_KEY}."),
    key("timeout_ms", Shape::Integer(100, 120_000), "The longest that a call may take; 10000 without it."),
    key(
        "idempotent",
        Shape::Boolean,
        "Whether its server does nothing twice for one Idempotency-Key: then a doubtful call is sent again.",
    ),
    key(
        "approve",
        Shape::Word(&["user", "operator", "two_operators", "user_and_operator"]),
        "Who must approve a call; without it, user to write and user_and_operator to destroy.",
    ),
    key("approve_within", Shape::Duration(1, 7 * 86_400), "How long that is waited for; 15m without it."),
    key("allow_destructive", Shape::Boolean, "A destructive tool is refused without it."),
];

const TURNS: &[Key] = &[
    key(
        "keep",
        Shape::Duration(60, 30 * 86_400),
        "How long a turn can be found, and its idempotency key joins it; 24h without it.",
    ),
    key(
        "timeout_ms",
        Shape::Integer(1_000, HOUR_MS),
        "The longest that a turn may take for which nobody waits; 900000 without it.",
    ),
];

const AUDIT: &[Key] = &[
    key("enabled", Shape::Boolean, "On without it."),
    key(
        "content",
        Shape::Boolean,
        "Whether texts and arguments are in it beside their hashes and sizes. Without it, in dev only.",
    ),
    key("keep", Shape::Duration(3_600, LONGEST_S), "How long records are kept; 180d without it."),
];

const FAQ: &[Key] = &[
    required("intent", Shape::Name, "For this intent."),
    required(
        "questions",
        Shape::List(&Shape::Text),
        "To one of these questions, in any spelling that means the same.",
    ),
    required("answer", Shape::Text, "The answer."),
];
