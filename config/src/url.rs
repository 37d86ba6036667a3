//! Where a model, or the team's own backend, may be: over https anywhere, over http only where nobody listens in.

use std::net::{IpAddr, Ipv6Addr};

/// Why a base URL cannot be used; `None` when it can.
pub(crate) fn problem(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !matches!(scheme, "http" | "https") {
        return Some("must begin with https:// or, within the machine or a private network, http://");
    }
    if url.contains(['@', '?', '#'])
        || url.chars().any(|c| c.is_whitespace() || c.is_control() || !c.is_ascii())
    {
        return Some("must be plain: no credentials, query, fragment or space");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Some("has no host, or a port that is none");
    }
    if scheme == "http" && !is_private(host) {
        return Some(
            "is http to a public host: the key and what people write could be read on the way; use https",
        );
    }
    None
}

/// Loopback, private addresses, and names that only a private network resolves.
fn is_private(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST || address.is_unique_local(),
        // `2130706433` and `0x7f.1` are addresses too, to some.
        Err(_) if !host.starts_with(|c: char| c.is_ascii_alphabetic()) => false,
        Err(_) => {
            !host.contains('.')
                || [".localhost", ".local", ".internal", ".lan"].iter().any(|end| host.ends_with(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_stays_at_home() {
        let good = [
            "http://127.0.0.1:8000/v1",
            "http://localhost:8000/v1",
            "http://model-gateway:8000/v1",
            "http://[::1]:1/v1",
            "http://10.0.0.5/v1",
            "http://192.168.1.9/v1",
            "http://[fd00::1]/v1",
            "http://vllm.internal/v1",
            "https://api.example.com/v1",
        ];
        for url in good {
            assert_eq!(problem(url), None, "{url}");
        }
        let bad = [
            "",
            "127.0.0.1:8000",
            "ftp://x",
            "http://api.example.com/v1",
            "http://8.8.8.8/v1",
            "http://169.254.169.254/",
            "https://",
            "http://u:p@127.0.0.1/",
            "https://a.example/v1?key=1",
            "https://a.example/ v1",
            "http://2130706433/",
            "http://127.0.0.1:99999/",
            "http://[fe80::1]/",
        ];
        for url in bad {
            assert!(problem(url).is_some(), "{url}");
        }
    }
}
