//! Keys, tokens, passwords: what opens something.
//!
//! Some say what they are by their first characters, some by the word before them, and a private
//! key by its armour. A word alone is no reason: `password: required` and `token = next(x)` stay,
//! as a value must have a digit in it and be long enough.

use serde::{Deserialize, Serialize};

use super::{Ahead, Found};

const LABEL: &str = "secret";

/// How much of a value is looked at before it is certain, in bytes.
const WINDOW: usize = 64;

/// How much of a JWT's header. What is longer and begins with `eyJ` is JSON in base64 that
/// nobody reads: a session or a token with certificates in it.
const JWT_WINDOW: usize = 128;

/// The shortest JWT header: `{"alg":"..`.
const JWT_HEADER: usize = 12;

/// The most of a key's label: `ENCRYPTED PRIVATE KEY`, `PGP PRIVATE KEY BLOCK`.
const KEY_LABEL: usize = 32;

/// What goes on with a secret after it was certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Swallow {
    /// Nothing.
    #[default]
    Nothing,
    /// All that is of the alphabet.
    Run(Alphabet),
    /// A private key up to its end line. Comes to an end without one at what cannot be in a key,
    /// so that an explanation of the format does not lose all that follows.
    Key,
    /// The rest of the end line, after so many of its five dashes.
    KeyEnd(u8),
}

impl Swallow {
    /// How many bytes at the start belong to the secret, and what goes on after them.
    pub(super) fn swallow(self, text: &str, complete: bool) -> (usize, Self) {
        let bytes = text.as_bytes();
        match self {
            Self::Nothing => (0, self),
            Self::Run(alphabet) => match alphabet.run(bytes, complete) {
                (len, true) => (len, Self::Nothing),
                (len, false) => (len, self),
            },
            Self::Key => swallow_key(bytes, complete),
            Self::KeyEnd(dashes) => swallow_key_end(bytes, dashes),
        }
    }
}

fn swallow_key(bytes: &[u8], complete: bool) -> (usize, Swallow) {
    const END: &[u8] = b"-----END";
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'-' if bytes[at..].starts_with(END) => {
                let end = at + END.len();
                let (rest, then) = swallow_key_end(&bytes[end..], 0);
                return (end + rest, then);
            }
            b'-' if !complete && END.starts_with(&bytes[at..]) => return (at, Swallow::Key),
            b'`' | 0x80.. => return (at, Swallow::Nothing),
            _ => {}
        }
    }
    (bytes.len(), Swallow::Key)
}

fn swallow_key_end(bytes: &[u8], mut dashes: u8) -> (usize, Swallow) {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'-' if dashes == 4 => return (at + 1, Swallow::Nothing),
            b'-' => dashes += 1,
            b'A'..=b'Z' | b'0'..=b'9' | b' ' if dashes == 0 => {}
            _ => return (at, Swallow::Nothing),
        }
    }
    (bytes.len(), Swallow::KeyEnd(dashes))
}

/// The characters that a kind of secret is made of. A dot is one only before another of them:
/// the last one ends a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Alphabet {
    /// `A`–`Z` and digits.
    Upper,
    /// Letters and digits.
    Alnum,
    /// Base64 for URLs (RFC 4648 §5).
    Url,
    /// The same with dots: a JWT.
    Jwt,
    /// `token68` of RFC 9110 §11.2.
    Bearer,
    /// What people write as a password, up to what ends it in prose and code.
    Value,
    /// The same in a query, where `&` ends it.
    Query,
}

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Jwt => Self::Url.has(byte) || byte == b'.',
            Self::Bearer => Self::Jwt.has(byte) || matches!(byte, b'~' | b'+' | b'/' | b'='),
            Self::Value => byte.is_ascii_graphic() && !br#""'`,;()[]{}<>|\"#.contains(&byte),
            Self::Query => byte != b'&' && Self::Value.has(byte),
        }
    }

    /// How many bytes at the start are of it, and whether they end there for certain.
    fn run(self, bytes: &[u8], complete: bool) -> (usize, bool) {
        let mut at = 0;
        loop {
            at += bytes[at..].iter().take_while(|byte| **byte != b'.' && self.has(**byte)).count();
            match bytes[at..] {
                [] => return (at, complete),
                [b'.'] if self.has(b'.') => return (at, complete),
                [b'.', next, ..] if self.has(b'.') && next != b'.' && self.has(next) => at += 1,
                _ => return (at, true),
            }
        }
    }

    /// The run at a place, as far as the window goes; `None` when more must be known.
    fn look(self, ahead: Ahead<'_>, window: usize) -> Option<(usize, bool)> {
        let bytes = ahead.text.as_bytes();
        let seen = &bytes[..bytes.len().min(window)];
        let (len, ended) = self.run(seen, ahead.complete && seen.len() == bytes.len());
        (ended || seen.len() == window).then_some((len, ended))
    }
}

/// Secrets that begin with what they are: prefix, alphabet, and how many of it follow.
const PREFIXES: &[(&str, Alphabet, usize)] = &[
    ("sk-", Alphabet::Url, 16), // OpenAI, Anthropic, DeepSeek, DashScope, Moonshot
    ("sk_live_", Alphabet::Alnum, 16), // Stripe
    ("rk_live_", Alphabet::Alnum, 16),
    ("ghp_", Alphabet::Alnum, 30), // GitHub
    ("gho_", Alphabet::Alnum, 30),
    ("ghu_", Alphabet::Alnum, 30),
    ("ghs_", Alphabet::Alnum, 30),
    ("ghr_", Alphabet::Alnum, 30),
    ("github_pat_", Alphabet::Url, 22),
    ("glpat-", Alphabet::Url, 20), // GitLab
    ("AKIA", Alphabet::Upper, 16), // AWS
    ("ASIA", Alphabet::Upper, 16), // AWS, for a time
    ("AKID", Alphabet::Alnum, 16), // Tencent Cloud
    ("LTAI", Alphabet::Alnum, 12), // Alibaba Cloud
    ("AIza", Alphabet::Url, 30),   // Google
    ("hf_", Alphabet::Alnum, 30),  // Hugging Face
    ("xoxa-", Alphabet::Url, 10),  // Slack
    ("xoxb-", Alphabet::Url, 10),
    ("xoxe-", Alphabet::Url, 10),
    ("xoxp-", Alphabet::Url, 10),
    ("xoxr-", Alphabet::Url, 10),
    ("xoxs-", Alphabet::Url, 10),
    ("xapp-", Alphabet::Url, 10),
];

/// A secret that begins here, at the start of a word.
pub(super) fn at(past: &str, ahead: Ahead<'_>) -> Found<'static> {
    if let Some(wanted) = wanted(past) {
        match value(wanted, ahead) {
            Found::Nothing => {}
            found => return found,
        }
    }
    let first = ahead.text.as_bytes()[0];
    for (prefix, alphabet, least) in PREFIXES.iter().filter(|(prefix, ..)| prefix.as_bytes()[0] == first) {
        let Some(rest) = ahead.text.strip_prefix(prefix) else {
            if !ahead.complete && prefix.starts_with(ahead.text) {
                return Found::Undecided;
            }
            continue;
        };
        let Some((len, _)) = alphabet.look(Ahead { text: rest, ..ahead }, WINDOW) else {
            return Found::Undecided;
        };
        if len >= *least && is_random(&rest.as_bytes()[..len]) {
            return secret(prefix.len() + len, *alphabet);
        }
    }
    if first == b'e' { jwt(ahead) } else { Found::Nothing }
}

fn secret(len: usize, alphabet: Alphabet) -> Found<'static> {
    Found::Secret { len, label: LABEL, then: Swallow::Run(alphabet) }
}

/// Whether it is not just words: `sk-learn-pipeline-example` is no key.
fn is_random(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

fn jwt(ahead: Ahead<'_>) -> Found<'static> {
    const START: &str = "eyJ";
    if !ahead.text.starts_with(START) {
        return if START.starts_with(ahead.text) { ahead.end() } else { Found::Nothing };
    }
    let Some((len, ended)) = Alphabet::Url.look(ahead, JWT_WINDOW) else { return Found::Undecided };
    if !ended {
        return secret(len, Alphabet::Jwt);
    }
    match &ahead.text.as_bytes()[len..] {
        _ if len < JWT_HEADER => Found::Nothing,
        [b'.'] => ahead.end(),
        [b'.', next, ..] if Alphabet::Url.has(*next) => secret(len, Alphabet::Jwt),
        _ => Found::Nothing,
    }
}

/// What a word before a value says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    alphabet: Alphabet,
    /// The length from which it is a secret: people choose short passwords, machines do not.
    least: usize,
}

const PASSWORD: usize = 6;
const KEY: usize = 16;

/// The words, in small letters. What ends with one counts too: `DB_PASSWORD`, `access_token`.
const WORDS: &[(&str, usize)] = &[
    ("password", PASSWORD),
    ("passwd", PASSWORD),
    ("pwd", PASSWORD),
    ("密码", PASSWORD),
    ("口令", PASSWORD),
    ("secret", KEY),
    ("token", KEY),
    ("apikey", KEY),
    ("api_key", KEY),
    ("api-key", KEY),
    ("api key", KEY),
    ("accesskey", KEY),
    ("access_key", KEY),
    ("access key", KEY),
    ("secretkey", KEY),
    ("secret_key", KEY),
    ("secret key", KEY),
    ("session_key", KEY), // WeChat's, of a login
    ("sessionkey", KEY),
    ("密钥", KEY),
    ("令牌", KEY),
];

/// What is wanted of a value after that text: `Bearer `, `"password": "`, `密码是`.
fn wanted(past: &str) -> Option<Wanted> {
    if ends_with(past, "bearer ") || ends_with(past, "authorization: basic ") {
        return Some(Wanted { alphabet: Alphabet::Bearer, least: KEY });
    }
    let lead = past.trim_end_matches(|c| " \t\"'“‘`\\*!#^~+-_".contains(c));
    let word = lead.trim_end_matches(['=', ':', '：', '>']);
    let word = match word.len() == lead.len() {
        true => ["是", "为", " is"].iter().find_map(|verb| lead.strip_suffix(verb))?,
        false => word,
    };
    let word = word.trim_end_matches(|c| " \t\"'”’`\\*_".contains(c));
    let (_, least) = WORDS.iter().find(|(known, _)| ends_with(word, known))?;
    let alphabet = if lead.ends_with('=') { Alphabet::Query } else { Alphabet::Value };
    Some(Wanted { alphabet, least: *least })
}

fn ends_with(text: &str, word: &str) -> bool {
    let start = text.len().checked_sub(word.len());
    start.is_some_and(|start| text.as_bytes()[start..].eq_ignore_ascii_case(word.as_bytes()))
}

/// A value of which something is wanted.
fn value(wanted: Wanted, ahead: Ahead<'_>) -> Found<'static> {
    let Some((len, ended)) = wanted.alphabet.look(ahead, WINDOW) else { return Found::Undecided };
    let value = &ahead.text.as_bytes()[..len];
    let is_call = ended && ahead.text.as_bytes().get(len) == Some(&b'(');
    let is_address = value.starts_with(b"http://") || value.starts_with(b"https://");
    if len < wanted.least || is_call || is_address || !value.iter().any(u8::is_ascii_digit) {
        return Found::Nothing;
    }
    secret(len, wanted.alphabet)
}

/// A private key that begins here, at a dash.
pub(super) fn private_key(ahead: Ahead<'_>) -> Found<'static> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &[u8] = b"-----";
    let Some(rest) = ahead.text.strip_prefix(BEGIN) else {
        return if BEGIN.starts_with(ahead.text) { ahead.end() } else { Found::Nothing };
    };
    let is_label = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let label = rest.bytes().take(KEY_LABEL).take_while(is_label).count();
    let after = &rest.as_bytes()[label..];
    if after.len() < DASHES.len() && DASHES.starts_with(after) {
        return ahead.end();
    }
    if !after.starts_with(DASHES) || !rest[..label].contains("PRIVATE KEY") {
        return Found::Nothing;
    }
    Found::Secret { len: BEGIN.len() + label + DASHES.len(), label: LABEL, then: Swallow::Key }
}
