//! A person's risk, as WeChat ranks it: `POST /wxa/getuserriskrank`.
//!
//! A rank is WeChat's opinion and nothing else here is one: an answer without a rank that is
//! documented is a fault, never a rank of 0. What a rank or a fault means for a login is decided by
//! the caller.

use serde::Deserialize;

use super::{
    content::{CheckFault, fault},
    lenient_integer,
};
use crate::wire::json;

/// What the person is doing, as WeChat divides it: 0 registers, 1 takes part in a promotion. There is
/// none for logins; the first looks for automated and stolen accounts and for suspicious networks,
/// which is what a login wants to know.
const SCENE: u8 = 0;

/// The highest rank. WeChat's documentation has 0 to 4, and a higher number is a higher risk.
pub(crate) const HIGHEST: u8 = 4;

/// The body of the request. `client_ip` is where the person's request came from.
pub(crate) fn request_body(appid: &str, openid: &str, client_ip: &str) -> String {
    format!(
        r#"{{"appid":{},"openid":{},"scene":{SCENE},"client_ip":{}}}"#,
        json::string(appid),
        json::string(openid),
        json::string(client_ip)
    )
}

/// WeChat's answer, as far as it is read.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "lenient_integer")]
    errcode: Option<i64>,
    #[serde(default, deserialize_with = "lenient_integer")]
    risk_rank: Option<i64>,
}

/// The rank in the answer to [`request_body`]: 0 to [`HIGHEST`]. Beside an error none counts.
pub(crate) fn rank(status: u16, body: &[u8]) -> Result<u8, CheckFault> {
    let answer = serde_json::from_slice::<Answer>(body).ok().filter(|_| status == 200);
    let answer = answer.ok_or(CheckFault::Unavailable)?;
    if let Some(fault) = fault(answer.errcode) {
        return Err(fault);
    }
    let rank = answer.risk_rank.and_then(|rank| u8::try_from(rank).ok());
    rank.filter(|rank| *rank <= HIGHEST).ok_or(CheckFault::Unavailable)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_request_is_the_documented_one() {
        assert_eq!(
            request_body("wx1", "o\"1", "2001:db8::1"),
            r#"{"appid":"wx1","openid":"o\"1","scene":0,"client_ip":"2001:db8::1"}"#
        );
    }

    #[test]
    fn a_rank_is_0_to_4() {
        let of = |rank: &str| {
            let body = format!(r#"{{"errcode":0,"errmsg":"ok","risk_rank":{rank},"unoin_id":123456}}"#);
            super::rank(200, body.as_bytes())
        };
        for rank in 0..=4_u8 {
            assert_eq!(of(&rank.to_string()), Ok(rank));
            assert_eq!(of(&format!("\"{rank}\"")), Ok(rank));
        }
        for none in ["5", "-1", "260", "null", "\"high\"", "1.5", "[4]"] {
            assert_eq!(of(none), Err(CheckFault::Unavailable), "{none}");
        }
        assert_eq!(super::rank(200, br#"{"risk_rank":4}"#), Ok(4));
    }

    #[test]
    fn an_error_is_no_rank() {
        for (errcode, expected) in [
            (-1, CheckFault::Unavailable),
            (40001, CheckFault::Token),
            (42001, CheckFault::Token),
            (61010, CheckFault::NotSeen),
            (45009, CheckFault::Quota),
            (40003, CheckFault::BadRequest(40003)),
            (40129, CheckFault::BadRequest(40129)),
            (43104, CheckFault::BadRequest(43104)),
            (48001, CheckFault::BadRequest(48001)),
        ] {
            let body = format!(r#"{{"errcode":{errcode},"errmsg":"x","risk_rank":0}}"#);
            assert_eq!(super::rank(200, body.as_bytes()), Err(expected), "{errcode}");
        }
        for body in ["", "{}", "[]", "<html>", r#"{"risk_rank":"#] {
            assert_eq!(super::rank(200, body.as_bytes()), Err(CheckFault::Unavailable), "{body}");
        }
        assert_eq!(super::rank(502, br#"{"risk_rank":0}"#), Err(CheckFault::Unavailable));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            proptest::prop_assert!(super::rank(200, &bytes).map_or(true, |rank| rank <= HIGHEST));
        }
    }
}
