//! Whether a callback is DingTalk's.
//!
//! The signature covers a time and the secret, not the body: whoever saw one request can send any
//! body with its two headers for an hour. So a message is answered once, by its `msgId`, for longer
//! than that hour, and nothing is sent to an address out of a body without a look at it.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::policy::auth;

/// How far a callback's time may be from ours: one hour, by DingTalk's page on receiving messages.
const WINDOW_MS: u64 = 3_600_000;

/// For how long a `msgId` is remembered, in milliseconds: no callback is believed for longer.
pub(crate) const REMEMBERED_MS: u64 = 2 * WINDOW_MS;

/// Whether the headers `timestamp` (milliseconds) and `sign` are DingTalk's, for the robot's app
/// secret. Without a secret nothing is.
pub(crate) fn is_signed(app_secret: &str, timestamp: &str, sign: &str, now_ms: u64) -> bool {
    let recent = timestamp.parse::<u64>().is_ok_and(|time| time.abs_diff(now_ms) <= WINDOW_MS);
    auth::is_same(&expected(app_secret, timestamp), sign) && recent && !app_secret.is_empty()
}

/// Base64 of HMAC-SHA256, with the secret as the key, over the time, a line feed and the secret.
fn expected(app_secret: &str, timestamp: &str) -> String {
    let parts = [timestamp, "\n", app_secret].map(str::as_bytes);
    STANDARD.encode(auth::hmac_sha256(app_secret.as_bytes(), &parts))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const SECRET: &str = "this is a secret";
    const TIME: &str = "1577262236757";
    const SIGN: &str = "DJrE6qdyVGCQz9z5r2MDuNcNAhwYnuAkyj13cx169CA=";
    const AT: u64 = 1_577_262_236_757;

    #[test]
    fn the_signature_is_that_of_the_documentation() {
        assert_eq!(expected(SECRET, TIME), SIGN);
        assert!(is_signed(SECRET, TIME, SIGN, AT));
    }

    #[test]
    fn anything_else_is_none() {
        for (secret, time, sign) in [
            ("this is a secret ", TIME, SIGN),
            (SECRET, "1577262236758", SIGN),
            (SECRET, TIME, "DJrE6qdyVGCQz9z5r2MDuNcNAhwYnuAkyj13cx169CA"),
            (SECRET, TIME, ""),
            (SECRET, "", SIGN),
            (SECRET, " 1577262236757", SIGN),
        ] {
            assert!(!is_signed(secret, time, sign, AT), "{secret} {time} {sign}");
        }
        assert!(!is_signed("", TIME, &expected("", TIME), AT));
        assert!(!is_signed(SECRET, "soon", &expected(SECRET, "soon"), AT));
    }

    #[test]
    fn it_is_believed_for_an_hour() {
        for (now, believed) in [
            (AT + WINDOW_MS, true),
            (AT - WINDOW_MS, true),
            (AT + WINDOW_MS + 1, false),
            (AT - WINDOW_MS - 1, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_signed(SECRET, TIME, SIGN, now), believed, "{now}");
        }
    }
}
