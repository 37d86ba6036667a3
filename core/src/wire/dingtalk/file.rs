//! Pictures and files: the API gives an address for a code, and the address gives the bytes.
//!
//! The address is DingTalk's word and not a person's, and all the same nothing is fetched but from the
//! hosts where DingTalk keeps such bytes, and by https only.

use serde_json::Value;

use super::{
    send::{Sent, by_api},
    text,
};
use crate::wire::json;

/// The path of the request for an address; its header is [`TOKEN_HEADER`](super::TOKEN_HEADER).
pub(crate) const PATH: &str = "/v1.0/robot/messageFiles/download";

/// Where bytes are: DingTalk's own hosts, and those of its storage.
const HOSTS: [&str; 3] = [".dingtalk.com", ".aliyuncs.com", ".alicdn.com"];
/// The longest address: a signed one has about 500 characters.
const LONGEST: usize = 4_096;

/// The body of the request.
pub(crate) fn request_body(robot_code: &str, code: &str) -> String {
    format!("{{\"downloadCode\":{},\"robotCode\":{}}}", json::string(code), json::string(robot_code))
}

/// Where the bytes are, after the scheme: `//host/path`.
///
/// # Errors
/// What the answer means otherwise.
pub(crate) fn address(status: u16, body: &[u8]) -> Result<String, Sent> {
    match by_api(status, body) {
        Sent::Delivered => {}
        other => return Err(other),
    }
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let url = text(&answer, "downloadUrl").filter(|url| url.len() <= LONGEST).unwrap_or_default();
    // What is given as http is there by https too.
    let rest = url.strip_prefix("https:").or_else(|| url.strip_prefix("http:")).unwrap_or_default();
    let (host, path) = rest.strip_prefix("//").and_then(|rest| rest.split_once('/')).unwrap_or_default();
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#<>@\\^`{|}".contains(&byte));
    let known = HOSTS.iter().any(|known| host.len() > known.len() && host.ends_with(known));
    if is_host && is_path && known { Ok(rest.to_owned()) } else { Err(Sent::Refused("downloadUrl".into())) }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn of(url: &str) -> Result<String, Sent> {
        address(200, format!(r#"{{"downloadUrl":"{url}"}}"#).as_bytes())
    }

    #[test]
    fn bytes_come_from_dingtalk_or_nowhere() {
        let there = "//zjk-im.oss-cn-zhangjiakou.aliyuncs.com/a/b.png?Expires=1&Signature=x%2B=";
        assert_eq!(of(&format!("https:{there}")), Ok(there.into()));
        assert_eq!(of(&format!("http:{there}")), Ok(there.into()));
        for url in [
            "",
            "ftp://a.aliyuncs.com/x",
            "https://a.aliyuncs.com.evil.example/x",
            "https://evil.example/.aliyuncs.com/x",
            "https://.aliyuncs.com/x",
            "https://a.aliyuncs.com:8443/x",
            "https://user@a.aliyuncs.com/x",
            "https://127.0.0.1/x",
            "https://a.aliyuncs.com/x y",
            "https://a.aliyuncs.com",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        assert_eq!(address(401, b"{}"), Err(Sent::TokenStale));
        assert_eq!(address(500, b""), Err(Sent::Again));
        assert!(address(200, b"rubbish").is_err());
    }

    #[test]
    fn the_body_names_the_robot_and_the_code() {
        assert_eq!(request_body("ding1", "a\"b"), r#"{"downloadCode":"a\"b","robotCode":"ding1"}"#);
    }
}
