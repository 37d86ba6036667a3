//! Messages that WeChat pushes here: whether they are WeChat's, and what they say.
//!
//! The signature of plain mode covers a time and a number, not the body: whoever saw one request
//! can send any body for as long as its time is believed. Where a key for safe mode is set, only
//! what was encrypted with it and signed with [`message_signature_is_valid`] is believed, and
//! nothing is decrypted before that. SHA-1 and AES-CBC without a MAC are WeChat's choice, not
//! ours, and are used for nothing else.
//!
//! Whether a time is recent is for the caller, who has a clock. A message that comes again changes
//! nothing, so nobody remembers nonces.

use aes::Aes256Dec;
use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _, block_padding::NoPadding};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use crate::policy::auth::{self, hex};

/// WeChat pads to 32 bytes, twice AES's block.
const PADDING_BLOCK: usize = 32;

/// Random bytes and a length precede the message.
const PREFIX: usize = 16 + 4;

/// How far a message's time may be from ours, in seconds: WeChat repeats one within half a minute.
const RECENT_S: u64 = 600;

/// The longest value in a query that is looked at.
const LONGEST_VALUE: usize = 512;

/// What stands in the query of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Query {
    signature: String,
    msg_signature: String,
    timestamp: String,
    nonce: String,
    /// What the check of the address wants to have back.
    pub echostr: String,
}

impl Query {
    /// Reads it. What is missing, too long or not text is empty, and then nothing is valid.
    pub(crate) fn parse(query: &str) -> Self {
        let mut read = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let field = match name {
                "signature" => &mut read.signature,
                "msg_signature" => &mut read.msg_signature,
                "timestamp" => &mut read.timestamp,
                "nonce" => &mut read.nonce,
                "echostr" => &mut read.echostr,
                _ => continue,
            };
            *field = decoded(value).unwrap_or_default();
        }
        read
    }

    /// Whether its time is now, within [`RECENT_S`].
    pub(crate) fn is_recent(&self, unix_ms: u64) -> bool {
        self.timestamp.parse::<u64>().is_ok_and(|seconds| seconds.abs_diff(unix_ms / 1000) <= RECENT_S)
    }

    /// Whether it is WeChat's, for the check of the address and for plain mode. It says nothing
    /// about a body.
    pub(crate) fn is_signed(&self, token: &str) -> bool {
        plain_signature_is_valid(token, &self.timestamp, &self.nonce, &self.signature)
    }

    /// Whether WeChat signed this encrypted message.
    pub(crate) fn signs(&self, token: &str, encrypt: &str) -> bool {
        message_signature_is_valid(token, &self.timestamp, &self.nonce, encrypt, &self.msg_signature)
    }
}

/// A value of a query without its percent encoding; `None` when it is not visible ASCII.
fn decoded(value: &str) -> Option<String> {
    let (mut out, mut rest) = (String::new(), value.as_bytes());
    if rest.len() > LONGEST_VALUE {
        return None;
    }
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?, after)
            }
            (b'+', after) => (b' ', after),
            (byte, after) => (*byte, after),
        };
        out.push(Some(char::from(byte)).filter(char::is_ascii_graphic)?);
        rest = after;
    }
    Some(out)
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushFault {
    /// The configured EncodingAESKey is not one.
    Key,
    /// Not a message that was encrypted with this key.
    Malformed,
    /// A message for another app.
    ForeignApp,
}

/// Whether `signature` is WeChat's, for the check of the address and for plain mode.
fn plain_signature_is_valid(token: &str, timestamp: &str, nonce: &str, signature: &str) -> bool {
    is_signature_of(&mut [token, timestamp, nonce], token, signature)
}

/// Whether `msg_signature` is WeChat's, over the encrypted message too.
fn message_signature_is_valid(
    token: &str,
    timestamp: &str,
    nonce: &str,
    encrypt: &str,
    msg_signature: &str,
) -> bool {
    is_signature_of(&mut [token, timestamp, nonce, encrypt], token, msg_signature)
}

/// Without a token everybody could sign, so then nothing is valid.
fn is_signature_of(parts: &mut [&str], token: &str, signature: &str) -> bool {
    auth::is_same(&sign(parts), signature) && !token.is_empty()
}

/// SHA-1 over the parts, sorted and joined, in lower-case hex.
fn sign(parts: &mut [&str]) -> String {
    parts.sort_unstable();
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// The push's body in safe mode; the data format must be set to JSON.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Encrypt")]
    encrypt: String,
}

/// The encrypted message in a push's body, still in base64: what the signature is over.
pub(crate) fn encrypted_message(body: &[u8]) -> Result<String, PushFault> {
    let envelope: Envelope = serde_json::from_slice(body).map_err(|_| PushFault::Malformed)?;
    Ok(envelope.encrypt)
}

/// Decodes an EncodingAESKey. Its 43rd character may be any: two of its bits are over.
const KEY_DECODER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Whether a text is an EncodingAESKey.
pub(crate) fn is_key(encoding_aes_key: &str) -> bool {
    key_and_iv(encoding_aes_key).is_ok()
}

/// The key, and its first half, which WeChat's sample code takes as the IV.
fn key_and_iv(encoding_aes_key: &str) -> Result<([u8; 32], [u8; 16]), PushFault> {
    let bytes = KEY_DECODER.decode(format!("{encoding_aes_key}=")).map_err(|_| PushFault::Key)?;
    let key: [u8; 32] = bytes.try_into().map_err(|_| PushFault::Key)?;
    let mut iv = [0; 16];
    iv.copy_from_slice(&key[..16]);
    Ok((key, iv))
}

/// The message in `encrypt_b64`, when it is for this app. Check its signature first.
pub(crate) fn decrypt(encoding_aes_key: &str, encrypt_b64: &str, appid: &str) -> Result<Vec<u8>, PushFault> {
    let (key, iv) = key_and_iv(encoding_aes_key)?;
    let mut bytes = STANDARD.decode(encrypt_b64).map_err(|_| PushFault::Malformed)?;
    let plain = cbc::Decryptor::<Aes256Dec>::new(&key.into(), &iv.into())
        .decrypt_padded::<NoPadding>(&mut bytes)
        .map_err(|_| PushFault::Malformed)?;
    let full = without_padding(plain).ok_or(PushFault::Malformed)?;
    let (message, receiver) = split(full).ok_or(PushFault::Malformed)?;
    if receiver == appid.as_bytes() { Ok(message.to_vec()) } else { Err(PushFault::ForeignApp) }
}

/// Takes PKCS#7 padding (RFC 5652, 6.3) of 1 to 32 bytes off.
fn without_padding(bytes: &[u8]) -> Option<&[u8]> {
    let last = *bytes.last()?;
    let len = usize::from(last);
    if len == 0 || len > PADDING_BLOCK {
        return None;
    }
    let (rest, padding) = bytes.split_at_checked(bytes.len().checked_sub(len)?)?;
    padding.iter().all(|byte| *byte == last).then_some(rest)
}

/// 16 random bytes, the message's length in big endian, the message, the app's id.
fn split(full: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = full.get(16..PREFIX)?.try_into().ok().map(u32::from_be_bytes)?;
    full.get(PREFIX..)?.split_at_checked(usize::try_from(len).ok()?)
}

#[cfg(test)]
pub(crate) mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use cbc::cipher::BlockModeEncrypt as _;

    use super::*;

    // The example of WeChat's page "消息推送", all four of its computations.
    const TOKEN: &str = "AAAAA";
    const AES_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const APPID: &str = "wxba5fad812f8e6fb9";
    const PUSHED: &str = "+qdx1OKCy+5JPCBFWw70tm0fJGb2Jmeia4FCB7kao+/Q5c/ohsOzQHi8khUOb05JCpj0JB4RvQMkUyus8TPx\
        LKJGQqcvZqzDpVzazhZv6JsXUnnR8XGT740XgXZUXQ7vJVnAG+tE8NUd4yFyjPy7GgiaviNrlCTj+l5kdfMuFUPpRSrfMZuMcp3Fn2Pe\
        de2IuQrKEYwKSqFIZoNqJ4M8EajAsjLY2km32IIjdf8YL/P50F7mStwntrA2cPDrM1kb6mOcfBgRtWygb3VIYnSeOBrebufAlr7F9mFU\
        PAJGj04=";
    const REPLY: &str =
        "ELGduP2YcVatjqIS+eZbp80MNLoAUWvzzyJxgGzxZO/5sAvd070Bs6qrLARC9nVHm48Y4hyRbtzve1L32tmxSQ==";

    #[test]
    fn the_official_plain_signatures() {
        for (timestamp, nonce, signature) in [
            ("1714036504", "1514711492", "f464b24fc39322e44b38aa78f5edd27bd1441696"),
            ("1714037059", "486452656", "899cf89e464efb63f54ddac96b0a0a235f53aa78"),
        ] {
            assert!(plain_signature_is_valid(TOKEN, timestamp, nonce, signature));
            for (token, timestamp, nonce, signature) in [
                ("AAAAB", timestamp, nonce, signature),
                ("", timestamp, nonce, signature),
                (TOKEN, "1714036505", nonce, signature),
                (TOKEN, timestamp, "", signature),
                (TOKEN, timestamp, nonce, ""),
                (TOKEN, timestamp, nonce, &signature[1..]),
                (TOKEN, timestamp, nonce, &signature.to_uppercase()),
            ] {
                assert!(!plain_signature_is_valid(token, timestamp, nonce, signature));
            }
        }
    }

    #[test]
    fn without_a_token_nothing_is_valid() {
        assert!(!plain_signature_is_valid("", "1", "2", &sign(&mut ["", "1", "2"])));
        assert!(!message_signature_is_valid("", "1", "2", "3", &sign(&mut ["", "1", "2", "3"])));
    }

    #[test]
    fn the_official_push() {
        let body = format!(r#"{{"ToUserName":"gh_97417a04a28d","Encrypt":"{PUSHED}"}}"#);
        let encrypt = encrypted_message(body.as_bytes()).expect("an envelope");
        let signature = "046e02f8204d34f8ba5fa3b1db94908f3df2e9b3";
        assert!(message_signature_is_valid(TOKEN, "1714112445", "415670741", &encrypt, signature));
        // The URL's other signature must not do.
        let plain = "6c5c811b55cc85e0e1b54100749188c20beb3f5d";
        assert!(plain_signature_is_valid(TOKEN, "1714112445", "415670741", plain));
        assert!(!message_signature_is_valid(TOKEN, "1714112445", "415670741", &encrypt, plain));
        let message = decrypt(AES_KEY, &encrypt, APPID).expect("a message");
        assert_eq!(message.len(), 167);
        let message: serde_json::Value = serde_json::from_slice(&message).expect("json");
        let expected = serde_json::json!({
            "ToUserName": "gh_97417a04a28d", "FromUserName": "o9AgO5Kd5ggOC-bXrbNODIiE3bGY",
            "CreateTime": 1_714_112_445, "MsgType": "event", "Event": "debug_demo", "debug_str": "hello world",
        });
        assert_eq!(message, expected);
        assert_eq!(decrypt(AES_KEY, &encrypt, "wxba5fad812f8e6fb"), Err(PushFault::ForeignApp));
        assert_eq!(decrypt(AES_KEY, &encrypt, ""), Err(PushFault::ForeignApp));
    }

    /// The query of a push as WeChat makes it, with the encrypted message in safe mode.
    pub(crate) fn query(token: &str, unix_s: u64, encrypt: Option<&str>) -> String {
        let (timestamp, nonce) = (unix_s.to_string(), "415670741");
        let signature = sign(&mut [token, &timestamp, nonce]);
        let mut query = format!("signature={signature}&timestamp={timestamp}&nonce={nonce}");
        if let Some(encrypt) = encrypt {
            let signature = sign(&mut [token, &timestamp, nonce, encrypt]);
            query.push_str(&format!("&encrypt_type=aes&msg_signature={signature}"));
        }
        query
    }

    /// As WeChat does it, to see that what it encrypts is read.
    pub(crate) fn encrypt(
        encoding_aes_key: &str,
        appid: &str,
        random: [u8; 16],
        message: &[u8],
    ) -> Result<String, PushFault> {
        let (key, iv) = key_and_iv(encoding_aes_key)?;
        let len = u32::try_from(message.len()).expect("short");
        let mut bytes = [&random, len.to_be_bytes().as_slice(), message, appid.as_bytes()].concat();
        let padding = PADDING_BLOCK - bytes.len() % PADDING_BLOCK;
        let padded = bytes.len() + padding;
        bytes.resize(padded, u8::try_from(padding).expect("at most 32"));
        let encrypted = cbc::Encryptor::<aes::Aes256>::new(&key.into(), &iv.into())
            .encrypt_padded::<NoPadding>(&mut bytes, padded)
            .expect("whole blocks");
        Ok(STANDARD.encode(encrypted))
    }

    #[test]
    fn the_official_reply() {
        let sealed = encrypt(AES_KEY, APPID, *b"707722b803182950", br#"{"demo_resp":"good luck"}"#);
        assert_eq!(sealed.as_deref(), Ok(REPLY));
        assert_eq!(decrypt(AES_KEY, REPLY, APPID), Ok(br#"{"demo_resp":"good luck"}"#.to_vec()));
        let signature = "1b9339964ed2e271e7c7b6ff2b0ef902fc94dea1";
        assert!(message_signature_is_valid(TOKEN, "1713424427", "415670741", REPLY, signature));
    }

    #[test]
    fn a_query_is_read_and_its_time_is_bounded() {
        let query = Query::parse(
            "signature=f464b24fc39322e44b38aa78f5edd27bd1441696&echostr=43751%2B&timestamp=1714036504&nonce=1514711492",
        );
        assert!(query.is_signed(TOKEN) && !query.is_signed("AAAAB") && !query.is_signed(""));
        assert_eq!(query.echostr, "43751+");
        for (unix_s, recent) in [
            (1_714_036_504, true),
            (1_714_037_104, true),
            (1_714_037_105, false),
            (1_714_035_904, true),
            (1_714_035_903, false),
        ] {
            assert_eq!(query.is_recent(unix_s * 1000), recent, "{unix_s}");
        }
        for bad in [
            "",
            "timestamp=",
            "timestamp=-1",
            "timestamp=99999999999999999999",
            "timestamp=1%",
            "echostr=%00",
        ] {
            let query = Query::parse(bad);
            assert!(!query.is_recent(1_000) && query.echostr.is_empty() && !query.is_signed(TOKEN), "{bad}");
        }
        assert_eq!(Query::parse(&format!("echostr={}", "x".repeat(513))).echostr, "");
    }

    /// The official key is all zeros, so the vectors do not tell the IV. This one was
    /// computed with OpenSSL: -aes-256-cbc, key 00 01 … 1f, IV 00 01 … 0f.
    #[test]
    fn the_iv_is_the_keys_first_half() {
        let sealed = encrypt(COUNTING_KEY, "wx1", *b"0123456789abcdef", b"hello");
        assert_eq!(sealed.as_deref(), Ok(OPENSSL));
        assert_eq!(decrypt(COUNTING_KEY, OPENSSL, "wx1"), Ok(b"hello".to_vec()));
    }

    const COUNTING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const OPENSSL: &str = "4j/AuRx71kQlxVlzbpsMWCAuRtd5gZWl14QJpzCSF9Y=";

    #[test]
    fn a_key_may_end_in_any_character_and_has_43() {
        // 43 characters are two bits more than 32 bytes, and WeChat's console fills them.
        let odd = format!("{}9", &COUNTING_KEY[..42]);
        let sealed = encrypt(&odd, APPID, [1; 16], b"x").expect("a key");
        assert_eq!(decrypt(COUNTING_KEY, &sealed, APPID), Ok(b"x".to_vec()));
        let long = format!("{AES_KEY}A");
        for key in ["", &AES_KEY[1..], &long, &AES_KEY.replace('A', "-")] {
            assert_eq!(decrypt(key, REPLY, APPID), Err(PushFault::Key), "{key}");
            assert_eq!(encrypt(key, APPID, [0; 16], b""), Err(PushFault::Key), "{key}");
        }
    }

    #[test]
    fn what_was_not_encrypted_so_is_malformed() {
        for text in ["", "AAAA", "*", &REPLY[4..], &REPLY[..REPLY.len() - 1], "AAAAAAAAAAAAAAAAAAAAAA=="] {
            assert_eq!(decrypt(AES_KEY, text, APPID), Err(PushFault::Malformed), "{text}");
        }
        assert_eq!(decrypt(COUNTING_KEY, REPLY, APPID), Err(PushFault::Malformed));
        for body in ["", "{}", r#"{"Encrypt":1}"#, "<xml></xml>"] {
            assert_eq!(encrypted_message(body.as_bytes()), Err(PushFault::Malformed), "{body}");
        }
    }

    #[test]
    fn padding_is_1_to_32_equal_bytes() {
        assert_eq!(without_padding(&[7, 2, 2]), Some(&[7][..]));
        assert_eq!(without_padding(&[32; 32]), Some(&[][..]));
        for bytes in [&[][..], &[0], &[7, 1, 2], &[3, 3], &[33; 64]] {
            assert_eq!(without_padding(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_malformed() {
        let mut full = [0_u8; 30];
        assert_eq!(split(&full), Some((&[][..], &full[20..])));
        full[19] = 10;
        assert_eq!(split(&full), Some((&full[20..], &[][..])));
        full[19] = 11;
        assert_eq!(split(&full), None);
        full[16] = 0xff;
        assert_eq!(split(&full), None);
        assert_eq!(split(&full[..19]), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn what_was_encrypted_is_decrypted(
            key in "[a-zA-Z0-9]{43}", random: [u8; 16], message: Vec<u8>, appid in "[a-z0-9]{0,20}"
        ) {
            let sealed = encrypt(&key, &appid, random, &message).expect("a key");
            proptest::prop_assert_eq!(decrypt(&key, &sealed, &appid), Ok(message));
            let foreign = format!("{appid}x");
            proptest::prop_assert_eq!(decrypt(&key, &sealed, &foreign), Err(PushFault::ForeignApp));
        }

        #[test]
        fn any_query_is_answered(query in "\\PC{0,80}") {
            let query = Query::parse(&query);
            proptest::prop_assert!(!query.is_signed("t") && !query.signs("t", "x"));
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            proptest::prop_assert!(decrypt(COUNTING_KEY, &STANDARD.encode(bytes), APPID).is_err());
        }
    }
}
