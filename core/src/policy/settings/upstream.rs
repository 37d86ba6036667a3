//! Where OpenClaw is, and how it is to know who asks.
//!
//! In `trusted-proxy` mode nothing is secret: OpenClaw believes a header because of the address
//! that it comes from. So the headers are the operator's and never a client's, and the one that
//! says what may be done is ours.

use super::{Reader, Secrets};
use crate::policy::{Environment, Policy, UpstreamAuth};

/// What a turn needs: `chat.send` is a method of `operator.write` (2026.9.6). OpenClaw gives a
/// request without this header everything, `operator.admin` too, and so it does with its token.
const SCOPES: (&str, &str) = ("x-openclaw-scopes", "operator.write");

/// Headers that the connection or this program decides, beside those of [`SCOPES`]' prefix.
const TAKEN: &[&str] = &[
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-real-ip",
];

/// The Gateway must be named, or the demo upstream be asked for, which only dev may.
pub(super) fn read_upstream(read: &mut Reader<'_>, secrets: &Secrets, demo: bool, policy: &mut Policy) {
    if demo {
        if policy.environment != Environment::Dev {
            read.wrong("MINIGATE_ENV", "the demo upstream is allowed only with MINIGATE_ENV=dev");
        }
        return;
    }
    const URL: &str = "OPENCLAW_GATEWAY_URL";
    policy.only_models = is_only_models(read, secrets);
    if policy.only_models {
        return;
    }
    match read.text(URL) {
        None => read.wrong(URL, "not set; for example http://127.0.0.1:18789"),
        Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
            read.wrong(URL, "must begin with http:// or https://");
        }
        Some(url) if url.contains('@') || url.contains('?') || url.contains('#') => {
            read.wrong(URL, "must not contain credentials, a query or a fragment");
        }
        Some(_) => {}
    }
    const TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
    let token = secrets.get(TOKEN).is_some();
    if read.word("OPENCLAW_AUTH", &[("token", false), ("trusted-proxy", true)], false) {
        policy.upstream_auth = UpstreamAuth::TrustedProxy(read_identity(read));
        // OpenClaw does not start with both either.
        if token {
            read.wrong(TOKEN, "set, but OPENCLAW_AUTH=trusted-proxy sends none; take it out");
        }
        if secrets.get("SESSION_SECRET").is_none() {
            read.wrong("SESSION_SECRET", "not set; without a Gateway token nothing else can stand in for it");
        }
        return;
    }
    if !token {
        read.wrong(TOKEN, "not set; it is gateway.auth.token of openclaw.json");
    }
    for name in ["OPENCLAW_USER", "OPENCLAW_USER_HEADER", "OPENCLAW_PROXY_HEADERS"] {
        if read.text(name).is_some() {
            read.wrong(name, "set, and only OPENCLAW_AUTH=trusted-proxy uses it");
        }
    }
}

/// Whether this process is a model gateway and nothing else: there is a token for that, and nothing of
/// what the other half needs.
fn is_only_models(read: &Reader<'_>, secrets: &Secrets) -> bool {
    let settings = ["OPENCLAW_GATEWAY_URL", "OPENCLAW_AUTH"];
    let keys = ["OPENCLAW_GATEWAY_TOKEN", "API_KEY", "OPENCLAW_API_KEY"];
    let nothing = settings.iter().all(|name| read.text(name).is_none())
        && keys.iter().all(|name| secrets.get(name).is_none());
    nothing && secrets.get("AUTH_TOKEN").is_some()
}

/// The headers of every turn, in the order in which they are sent.
fn read_identity(read: &mut Reader<'_>) -> Vec<(String, String)> {
    let header = read.text("OPENCLAW_USER_HEADER").unwrap_or("x-minigate-user");
    let user = read.text("OPENCLAW_USER").unwrap_or("minigate");
    if !is_value(user) {
        read.wrong("OPENCLAW_USER", "must be 1 to 256 printable ASCII characters");
    }
    let mut headers = Vec::new();
    let mut add = |read: &mut Reader<'_>, setting: &str, name: &str, value: &str| {
        let name = name.to_ascii_lowercase();
        if !is_name(&name) || headers.iter().any(|(known, _)| *known == name) {
            let problem = format!("`{name}` is no header's name, or a header that is set otherwise");
            return read.wrong(setting, problem);
        }
        headers.push((name, value.to_owned()));
    };
    add(read, "OPENCLAW_USER_HEADER", header, user);
    for (name, value) in read.pairs("OPENCLAW_PROXY_HEADERS") {
        if !is_value(value) {
            read.wrong("OPENCLAW_PROXY_HEADERS", format!("`{name}` is not `header=value`"));
        }
        add(read, "OPENCLAW_PROXY_HEADERS", name, value);
    }
    headers.push((SCOPES.0.into(), SCOPES.1.into()));
    headers
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len())
        && name.bytes().all(allowed)
        && !TAKEN.contains(&name)
        && !name.starts_with("x-openclaw-")
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| matches!(b, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::{HostFacts, SettingError};

    fn read(settings: &[(&str, &str)], secrets: &[(&str, &str)]) -> Result<Policy, Vec<SettingError>> {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let mut all = vec![("OPENCLAW_GATEWAY_URL", "http://10.0.0.2:18789")];
        all.extend_from_slice(settings);
        Policy::from_settings(&own(&all), &Secrets(own(secrets)), HostFacts::default(), false)
    }

    const KEYS: &[(&str, &str)] = &[("API_KEY", "a"), ("SESSION_SECRET", "0123456789abcdef")];
    const MODE: (&str, &str) = ("OPENCLAW_AUTH", "trusted-proxy");

    fn wrong(settings: &[(&str, &str)], secrets: &[(&str, &str)]) -> Vec<String> {
        let errors = read(settings, secrets).expect_err("a mistake");
        errors.into_iter().map(|error| error.name).collect()
    }

    #[test]
    fn a_mere_model_gateway_needs_only_its_token() {
        let of = |settings: &[(&str, &str)], secrets: &[(&str, &str)]| {
            let own =
                |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            Policy::from_settings(&own(settings), &Secrets(own(secrets)), HostFacts::default(), false)
        };
        let token = ("AUTH_TOKEN", "0123456789abcdef");
        let policy = of(&[], &[token]).expect("valid");
        assert!(policy.only_models && policy.session_secret != Policy::default().session_secret);
        assert!(!crate::policy::auth::key_is_valid(&policy, Some("")), "nobody may chat");
        // Half of the other settings is a mistake, and not another kind of process.
        for secret in [("API_KEY", "a"), ("OPENCLAW_GATEWAY_TOKEN", "t")] {
            assert!(of(&[], &[token, secret]).is_err());
        }
        assert!(of(&[], &[]).is_err());
    }

    #[test]
    fn a_trusted_proxy_needs_no_token_and_says_who_it_is() {
        let headers = |settings: &[(&str, &str)]| match read(&[&[MODE], settings].concat(), KEYS)
            .expect("valid")
            .upstream_auth
        {
            UpstreamAuth::TrustedProxy(headers) => headers,
            UpstreamAuth::Token => panic!("another mode"),
        };
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        assert_eq!(headers(&[]), own(&[("x-minigate-user", "minigate"), SCOPES]));
        let settings = [
            ("OPENCLAW_USER_HEADER", "X-Forwarded-User"),
            ("OPENCLAW_USER", "gate@example.com"),
            ("OPENCLAW_PROXY_HEADERS", "X-Forwarded-Proto=https, x-gate=a=b"),
        ];
        let expected = [
            ("x-forwarded-user", "gate@example.com"),
            ("x-forwarded-proto", "https"),
            ("x-gate", "a=b"),
            SCOPES,
        ];
        assert_eq!(headers(&settings), own(&expected));
    }

    #[test]
    fn neither_mode_has_what_belongs_to_the_other() {
        let token = [KEYS, &[("OPENCLAW_GATEWAY_TOKEN", "t")]].concat();
        assert_eq!(wrong(&[MODE], &token), ["OPENCLAW_GATEWAY_TOKEN"]);
        assert_eq!(wrong(&[MODE], &KEYS[..1]), ["SESSION_SECRET"]);
        assert_eq!(wrong(&[("OPENCLAW_USER", "u")], &token), ["OPENCLAW_USER"]);
        assert_eq!(wrong(&[("OPENCLAW_AUTH", "none")], &token), ["OPENCLAW_AUTH"]);
        assert!(read(&[("OPENCLAW_AUTH", "token")], &token).is_ok());
    }

    #[test]
    fn no_setting_writes_a_header_that_decides_something_else() {
        for name in [
            "x-openclaw-scopes",
            "X-OpenClaw-Model",
            "Authorization",
            "x-forwarded-for",
            "host",
            "a b",
            "a:b",
        ] {
            assert_eq!(
                wrong(&[MODE, ("OPENCLAW_USER_HEADER", name)], KEYS),
                ["OPENCLAW_USER_HEADER"],
                "{name}"
            );
            let pair = format!("{name}=v");
            let names = wrong(&[MODE, ("OPENCLAW_PROXY_HEADERS", &pair)], KEYS);
            assert_eq!(names, ["OPENCLAW_PROXY_HEADERS"], "{name}");
        }
        for pairs in ["x-a", "x-a=", "x-minigate-user=root", "x-a=1,x-a=2", "x-a=1\r\nx-b: 2", "x-a=\u{e9}"] {
            let names = wrong(&[MODE, ("OPENCLAW_PROXY_HEADERS", pairs)], KEYS);
            assert_eq!(names[0], "OPENCLAW_PROXY_HEADERS", "{pairs}");
        }
        assert_eq!(wrong(&[MODE, ("OPENCLAW_USER", "a\r\nb: c")], KEYS), ["OPENCLAW_USER"]);
    }
}
