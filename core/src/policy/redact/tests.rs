#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

/// A text in pieces of so many characters, with the state stored between them.
fn in_pieces(rules: &Rules, text: &str, size: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut redactor, mut out) = (Redactor::default(), String::new());
    for piece in chars.chunks(size) {
        redactor.push(rules, &piece.iter().collect::<String>(), &mut out);
        assert!(redactor.text.len() - redactor.at <= HOLD, "held back {}", redactor.text.len());
        assert!(redactor.at <= PAST + 3);
        let bytes = postcard::to_allocvec(&redactor).expect("encoded");
        redactor = postcard::from_bytes(&bytes).expect("decoded");
    }
    redactor.finish(rules, &mut out);
    out
}

fn check(text: &str, expected: &str) {
    let rules = Rules::all();
    assert_eq!(redact(&rules, text), expected, "whole: {text}");
    for size in [1, 2, 3, 7, 20] {
        assert_eq!(in_pieces(&rules, text, size), expected, "pieces of {size}: {text}");
    }
}

fn stays(text: &str) {
    check(text, text);
}

#[test]
fn mobile_numbers() {
    check("我的手机13800138000，谢谢", "我的手机[mobile]，谢谢");
    check("138 0013 8000/138-0013-8000/1380-013-8000", "[mobile]/[mobile]/[mobile]");
    check("+8613800138000 +86 138 0013 8000 (+86)13800138000", "[mobile] [mobile] (+86)[mobile]");
    check("008613800138000 86-13800138000 0086 138-0013-8000", "[mobile] [mobile] [mobile]");
    check("１３８００１３８０００和＋８６１３８００１３８０００", "[mobile]和[mobile]");
    check("13800138000 13900139000", "[mobile] [mobile]");
    check("tel13800138000 add13800138000", "tel[mobile] add[mobile]");
    check("13800138000", "[mobile]");
    stays("138001380001 1380013800 12800138000 113800138000");
    stays("0.13800138000 和 13800138000e5f6a7b8c9d0e1f2a3b4c5d");
}

#[test]
fn identity_cards() {
    check("身份证11010519491231002X。", "身份证[id]。");
    check("11010519491231002x 110105 19491231 002X", "[id] [id]");
    check("440524188001010014 １１０１０５１９４９１２３１００２Ｘ", "440524188001010014 [id]");
    check("身份证号码是：110105491231002，", "身份证号码是：[id]，");
    stays("110105194912310021 11010519491331002X 99010519491231002X");
    stays("订单110105491231002");
}

#[test]
fn bank_cards() {
    check("卡号6222021234567890128。", "卡号[card]。");
    check("4111 1111 1111 1111 / 4111-1111-1111-1111", "[card] / [card]");
    check("5555555555554444 378282246310005 3782 822463 10005", "[card] [card] [card]");
    check("6222 0212 3456 7890 128", "[card]");
    check("6222 0212 3456 7890 128 100元", "[card] 100元");
    stays("4111111111111112 1111111111111117 62220212345678901280");
    // A time in milliseconds and a snowflake that pass Luhn.
    stays("1795232797003 1234567890123456785 2024011509300012");
}

#[test]
fn addresses() {
    check("写给foo.bar+x@mail.example.com。", "写给[email]。");
    check("13800138000@qq.com, a_b@x.co", "[email], [email]");
    check("张三＠x foo＠163.com", "张三＠x [email]");
    check("...foo@bar.com... -a@b.cn-", "...[email]... -[email]-");
    check("foo@bar.com.cn.", "[email].");
    stays("@张三 vue@next root@10.0.0.1 lodash@4.17.21 icon@2x.png a@b foo@ @bar.com");
    stays(&format!("{}@", "a".repeat(65)));
}

#[test]
fn keys_and_tokens() {
    check("key sk-proj-abcDEF0123456789abcdef ok", "key [secret] ok");
    check(&format!("ghp_{} end", "a1B2".repeat(9)), "[secret] end");
    check("AKIAIOSFODNN7EXAMPLE, xoxb-123456789012-abcdef", "[secret], [secret]");
    check("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[secret]");
    check(&format!("AKID{} LTAI5tAbCdEfGhIjKlMn", "z8krbsJ5yKBZQpn7".repeat(2)), "[secret] [secret]");
    check("Authorization: Bearer abcdef0123456789xyz==\n", "Authorization: Bearer [secret]\n");
    check("用eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl. 完", "用[secret]. 完");
    stays("sk-learn sk-SK sk-some-long-kebab-case-name task-1234567890abcdef1234");
    stays("AKIA ghp_short Bearer authentication is required eyJ.a.b eyJhbGciOiJIUzI1NiJ9.");
}

#[test]
fn values_after_a_word() {
    let hex = "0123456789abcdef0123456789abcdef";
    check(&format!("appsecret={hex}&x=1"), "appsecret=[secret]&x=1");
    check(&format!("\"AppSecret\": \"{hex}\""), "\"AppSecret\": \"[secret]\"");
    check(&format!("密钥：{hex}。"), "密钥：[secret]。");
    check("密码是abc12345，口令: 20240101", "密码是[secret]，口令: [secret]");
    check("**密码**：P@ss.w0rd! DB_PASSWORD=hunter2x.", "**密码**：[secret] DB_PASSWORD=[secret].");
    stays(&format!("md5 {hex}"));
    stays("password: required; token = next(x1); max_tokens: 4096, 密码：请输入 8-16 位");
    stays("token: https://docs.example.com/v1/tokens password = sha256(x)");
}

#[test]
fn private_keys() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQ\n".repeat(400);
    let key = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----");
    check(&format!("看：{key}\n13800138000"), "看：[secret]\n[mobile]");
    check(&key.replace('\n', "\\n"), "[secret]");
    check("`-----BEGIN RSA PRIVATE KEY-----` 开头", "`[secret]` 开头");
    stays("-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----\n--------\n-----BEGIN ");
}

#[test]
fn the_rest_of_a_long_secret_is_swallowed() {
    for start in ["sk-", "xoxb-", "token=", "Bearer ", "eyJ", "eyJhbGciOiJIUzI1NiJ9.eyJ"] {
        let text = format!("{start}{} end", "a1".repeat(5000));
        let out = redact(&Rules::all(), &text).into_owned();
        assert!(out.len() < 30 && out.ends_with("[secret] end"), "{out}");
        assert_eq!(in_pieces(&Rules::all(), &text, 11), out);
    }
}

#[test]
fn what_is_not_asked_for_stays() {
    let text =
        "13800138000 11010519491231002X 4111111111111111 a@b.cn ghp_0123456789012345678901234567890123456";
    let none = Rules::default();
    assert!(none.is_empty() && !Rules::all().is_empty());
    assert!(matches!(redact(&none, text), Cow::Borrowed(same) if same == text));
    assert_eq!(in_pieces(&none, text, 3), text);
    let mobile = Rules { mobile: true, ..Rules::default() };
    assert_eq!(redact(&mobile, text), text.replace("13800138000", "[mobile]"));
}

#[test]
fn findings_are_counted_and_not_shown() {
    let (mut redactor, mut out) = (Redactor::default(), String::new());
    redactor.push(&Rules::all(), "13800138000, a@b.cn, 139", &mut out);
    assert_eq!((out.as_str(), redactor.found()), ("[mobile], [email], ", 2));
    assert!(!format!("{redactor:?}").contains("139"));
    redactor.finish(&Rules::all(), &mut out);
    assert_eq!((out.as_str(), redactor.found()), ("[mobile], [email], 139", 2));
}

#[test]
fn nothing_without_interest_is_held_back() {
    let (mut redactor, mut out) = (Redactor::default(), String::new());
    redactor.push(&Rules::all(), "今天天气很好。", &mut out);
    assert_eq!(out, "今天天气很好。");
}

#[test]
fn custom_patterns_come_first() {
    let rules = Rules {
        custom: vec![
            Custom::new("工号", r"EMP-\d{4,6}").expect("pattern"),
            Custom::new("plate", r"[京沪粤][A-Z]·?\w{5}").expect("pattern"),
        ],
        ..Rules::all()
    };
    let text = "EMP-123 EMP-1234 EMP-1234567 粤B12345，京A·88888。13800138000";
    let expected = "EMP-123 [工号] [工号]7 [plate]，[plate]。[mobile]";
    assert_eq!(redact(&rules, text), expected);
    for size in 1..9 {
        assert_eq!(in_pieces(&rules, text, size), expected);
    }
}

#[test]
fn the_longest_that_is_held_back() {
    let local = "a".repeat(64);
    let domain = format!("{}.cn", "b.".repeat(92) + "bb");
    check(&format!("{local}＠{domain}"), "[email]");
    let rules =
        Rules { custom: vec![Custom::new("x", "[😀-😏]{0,63}!").expect("pattern")], ..Rules::all() };
    let text = "😀".repeat(300);
    assert_eq!(in_pieces(&rules, &text, 1), text);
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Pushes a text in pieces that end at these characters.
    fn cut(rules: &Rules, text: &str, cuts: &[usize]) -> String {
        let mut ends: Vec<usize> =
            cuts.iter().map(|at| text.floor_char_boundary(at % (text.len() + 1))).collect();
        ends.extend([0, text.len()]);
        ends.sort_unstable();
        let (mut redactor, mut out) = (Redactor::default(), String::new());
        for ends in ends.windows(2) {
            redactor.push(rules, &text[ends[0]..ends[1]], &mut out);
            assert!(redactor.text.len() - redactor.at <= HOLD);
            assert!(redactor.at <= PAST + 3);
        }
        redactor.finish(rules, &mut out);
        out
    }

    fn with_luhn(mut digits: String) -> String {
        for last in '0'..='9' {
            digits.push(last);
            let (mut sum, mut twice) = (0, false);
            for digit in digits.bytes().rev() {
                let value = u32::from(digit - b'0') * if twice { 2 } else { 1 };
                sum += value / 10 + value % 10;
                twice = !twice;
            }
            if sum % 10 == 0 {
                return digits;
            }
            digits.pop();
        }
        digits
    }

    fn with_checksum(mut digits: String) -> String {
        // The weights are powers of 2 modulo 11 (ISO 7064, MOD 11-2).
        let sum: u32 =
            digits.bytes().enumerate().map(|(at, d)| u32::from(d - b'0') * (1 << (17 - at)) % 11).sum();
        let last = (12 - sum % 11) % 11;
        digits.push(char::from_digit(last, 10).unwrap_or('X'));
        digits
    }

    fn wide(text: &str) -> String {
        text.chars()
            .map(|c| match c {
                '0'..='9' => char::from_u32(u32::from(c) - u32::from('0') + u32::from('０')).expect("digit"),
                other => other,
            })
            .collect()
    }

    /// A secret, and what must not be seen of it.
    fn secret() -> impl Strategy<Value = (String, &'static str)> {
        let mobile = ("(\\+86|0086|86)?[ -]?", "1[3-9][0-9]", "[ -]?", "[0-9]{4}", "[0-9]{4}").prop_map(
            |(code, a, sep, b, c)| {
                let code = if code.trim_matches([' ', '-']).is_empty() { "" } else { &code };
                (format!("{code}{a}{sep}{b}{sep}{c}"), "[mobile]")
            },
        );
        let id = ("(11|44|51)[0-9]{4}19[5-9][0-9](0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])[0-9]{3}")
            .prop_map(|digits| (with_checksum(digits), "[id]"));
        let card = ("62[0-9]{13,16}|5[1-5][0-9]{13}|4[0-9]{14}", 0usize..3).prop_map(|(digits, sep)| {
            let digits = with_luhn(digits);
            let groups: Vec<&str> =
                digits.as_bytes().chunks(4).map(|g| core::str::from_utf8(g).expect("ascii")).collect();
            (groups.join(["", " ", "-"][sep]), "[card]")
        });
        let email = "[a-z0-9]([a-z0-9._+-]{0,30}[a-z0-9])?[@＠]([a-z0-9]{1,20}\\.){1,3}(com|cn|io)"
            .prop_map(|text| (text, "[email]"));
        let token = prop_oneof![
            "sk-[A-Za-z0-9]{15,200}[0-9]",
            "ghp_[A-Za-z0-9]{36}[0-9]",
            "AKIA[A-Z0-9]{15}[0-9]",
            "xoxb-[0-9]{12}-[A-Za-z0-9]{10,60}",
            "AIza[A-Za-z0-9_-]{34}[0-9]",
            "eyJ[A-Za-z0-9_-]{12,300}\\.eyJ[A-Za-z0-9_-]{5,300}\\.[A-Za-z0-9_-]{20,80}",
            "-----BEGIN (RSA |EC )?PRIVATE KEY-----\n([A-Za-z0-9+/]{64}\n){1,20}-----END PRIVATE KEY-----",
        ]
        .prop_map(|text| (text, "[secret]"));
        prop_oneof![
            mobile.clone(),
            mobile.prop_map(|(text, label)| (wide(&text), label)),
            id,
            card,
            email,
            token
        ]
    }

    /// What people write: Chinese, English, prices, dates, times, order numbers.
    fn clean() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[一-龥]{1,12}[，。！？：]",
            "[a-z]{1,12}[ ,.!?]",
            "¥[0-9]{1,5}\\.[0-9]{2} ",
            "20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9] [0-2][0-9]:[0-5][0-9]，",
            "1[67][0-9]{11}，",
            "20(2[0-9])(0[1-9]|1[0-2])[0-3][0-9][0-9]{8,12}，",
            "订单[0-9]{1,10}，",
            "[0-9a-f]{32} ",
            "https://[a-z]{3,9}\\.cn/[a-z]{1,8}\\?[a-z]=[0-9]{1,6}，",
            "`[a-z_]{1,10} = [a-z]{1,8}\\([a-z]{0,4}\\)`，",
        ];
        proptest::collection::vec(word, 0..12).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn no_secret_leaves_whatever_the_cuts(
            (secret, label) in secret(),
            before in clean(),
            after in clean(),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let rules = Rules::all();
            let text = format!("{before}\n{secret}，{after}");
            let out = cut(&rules, &text, &cuts);
            prop_assert_eq!(&out, &format!("{before}\n{label}，{after}"));
            prop_assert_eq!(redact(&rules, &text), out);
        }

        #[test]
        fn clean_text_stays(text in clean(), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
            prop_assert_eq!(cut(&Rules::all(), &text, &cuts), text.clone());
            prop_assert!(matches!(redact(&Rules::all(), &text), Cow::Borrowed(_)));
        }

        /// Any text at all, made of what the matchers look at.
        #[test]
        fn pieces_give_the_same_as_the_whole(
            parts in proptest::collection::vec(prop_oneof![
                "[0-9 +.-]{1,24}", "[a-zA-Z0-9._@-]{1,90}", "[０-９＋＠：]{1,9}", ".{0,6}", "[a-f0-9]{20,300}",
                Just("-----BEGIN PRIVATE KEY-----".to_owned()), Just("-----END A KEY-----".to_owned()),
                Just("password=\"".to_owned()), Just("Bearer ".to_owned()), Just("sk-".to_owned()),
                Just("eyJhbGciOiJIUzI1NiJ9.".to_owned()), Just("密码是".to_owned()),
                secret().prop_map(|(text, _)| text),
            ], 0..12),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let text = parts.concat();
            let rules = Rules {
                custom: vec![Custom::new("c", "a?[b-e\\d]{0,20}[^ ]9").expect("pattern")],
                ..Rules::all()
            };
            for rules in [Rules::all(), rules] {
                let whole = redact(&rules, &text);
                prop_assert_eq!(&cut(&rules, &text, &cuts), &whole);
                prop_assert_eq!(&in_pieces(&rules, &text, 1), &whole);
            }
        }
    }
}
