//! The fields of a subscribe message: what WeChat takes in each kind, and any text made to fit.
//!
//! A field that is a character too long, empty or of other characters makes WeChat refuse the whole
//! message (47003). So nothing leaves here that a kind does not take, whatever came in.
//! The kinds and limits are the table 订阅消息参数值内容限制说明 of WeChat's page 发送订阅消息, as of
//! 2026-07; `short_thing` is in templates and not in the table.

use chrono::{DateTime, Datelike as _, Timelike as _};

/// The kind of a field, which precedes the number in its name: `thing1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 事物: 20 characters of any kind.
    Thing,
    /// 短事物: any kind. WeChat says no limit; five characters are the shortest that any text field has.
    ShortThing,
    /// 数字: 32 digits, with a decimal point.
    Number,
    /// 字母: 32 letters.
    Letter,
    /// 符号: 5 symbols.
    Symbol,
    /// 字符串: 32 digits, letters or symbols.
    CharacterString,
    /// 时间: a time of day, with a date or without.
    Time,
    /// 日期: a date, with a time of day or without.
    Date,
    /// 金额: a currency's symbol, 10 digits, `元`.
    Amount,
    /// 电话: 17 digits and symbols.
    PhoneNumber,
    /// 车牌: 8 digits and letters; the first and the last may be Chinese.
    CarNumber,
    /// 姓名: 10 Chinese characters, or 20 letters or symbols.
    Name,
    /// 汉字: 5 Chinese characters.
    Phrase,
    /// 枚举值: one of the values that the template lists.
    Enum,
}

/// The kinds by the names that WeChat gives them.
pub const KINDS: [(&str, Kind); 14] = [
    ("thing", Kind::Thing),
    ("short_thing", Kind::ShortThing),
    ("number", Kind::Number),
    ("letter", Kind::Letter),
    ("symbol", Kind::Symbol),
    ("character_string", Kind::CharacterString),
    ("time", Kind::Time),
    ("date", Kind::Date),
    ("amount", Kind::Amount),
    ("phone_number", Kind::PhoneNumber),
    ("car_number", Kind::CarNumber),
    ("name", Kind::Name),
    ("phrase", Kind::Phrase),
    ("enum", Kind::Enum),
];

impl Kind {
    /// The kind of the field of that name: `character_string2`. `None` when the name has no kind
    /// or no number.
    pub fn of(field: &str) -> Option<Self> {
        let name = field.trim_end_matches(|c: char| c.is_ascii_digit());
        let kind = KINDS.iter().find(|(known, _)| *known == name)?;
        (name.len() < field.len()).then_some(kind.1)
    }

    /// A text of this kind that is made of `text`, and never empty. `at_ms` is the time where the
    /// text has none.
    pub fn fit(self, text: &str, at_ms: u64) -> String {
        let text = one_line(text);
        match self {
            Self::Thing => cut(&text, 20, "…", "无"),
            Self::ShortThing => cut(&text, 5, "…", "无"),
            Self::Number => or(number(&text, 32), "0"),
            Self::Letter => or(only(&text, 32, |c| c.is_ascii_alphabetic()), "N"),
            Self::Symbol => or(only(&text, 5, |c| !c.is_alphanumeric() && !c.is_whitespace()), "-"),
            Self::CharacterString => {
                let text: String = text.chars().map(|c| if c == ' ' { '-' } else { c }).collect();
                cut(&only(&text, usize::MAX, |c| c.is_ascii_graphic()), 32, "...", "-")
            }
            Self::Time if is_when(&text, true) => text,
            Self::Date if is_when(&text, false) => text,
            Self::Time | Self::Date => in_china(at_ms, true),
            Self::Amount => amount(&text),
            Self::PhoneNumber => or(only(&text, 17, |c| c.is_ascii_digit() || "+-*#()".contains(c)), "0"),
            Self::CarNumber => or(car_number(&text), "0"),
            Self::Name => name(&text),
            Self::Phrase => or(only(&text, 5, is_han), "通知"),
            Self::Enum => or(only(&text, 20, |_| true), "-"),
        }
    }
}

/// A moment in China's time (UTC+8, without summer time): `2019年10月1日 15:01`, which fields for
/// times and dates take, or `2019-10-01 15:01`, which is shorter.
pub(crate) fn in_china(unix_ms: u64, in_chinese: bool) -> String {
    let local = i64::try_from(unix_ms.saturating_add(8 * 3_600_000)).ok();
    let at = local.and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    let (year, month, day, hour, minute) = (at.year(), at.month(), at.day(), at.hour(), at.minute());
    if in_chinese {
        format!("{year}年{month}月{day}日 {hour:02}:{minute:02}")
    } else {
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}")
    }
}

/// Without line breaks and other control characters, and with single spaces.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// A character's length as a phone counts it (UTF-16), which is never less than one: so a text that
/// fits by this count fits by any.
fn length(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The longest beginning of at most `most` characters.
fn beginning(text: &str, most: usize) -> &str {
    let mut left = most;
    let end = text.char_indices().find(|(_, c)| {
        let fits = c.len_utf16() <= left;
        left = left.saturating_sub(c.len_utf16());
        !fits
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

/// At most `most` characters; a text that was longer ends with `mark`, within them.
fn cut(text: &str, most: usize, mark: &str, otherwise: &str) -> String {
    if length(text) > most {
        let kept = beginning(text, most - length(mark)).trim_end();
        return format!("{kept}{mark}");
    }
    or(text.to_owned(), otherwise)
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text }
}

/// The characters that are allowed, at most so many.
fn only(text: &str, most: usize, allowed: impl Fn(char) -> bool) -> String {
    beginning(&text.chars().filter(|c| allowed(*c)).collect::<String>(), most).trim().to_owned()
}

/// Chinese characters of the basic block; what is rarer is not known to be taken.
fn is_han(c: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&c)
}

/// Digits with at most one point between them.
fn number(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let point = c == '.' && !out.is_empty() && !out.contains('.');
        if (c.is_ascii_digit() || point) && out.len() < most {
            out.push(c);
        }
    }
    out.truncate(out.trim_end_matches('.').len());
    out
}

fn amount(text: &str) -> String {
    let currency = text.chars().find(|c| "¥￥$€£".contains(*c)).map(String::from).unwrap_or_default();
    // The point counts as a digit here, so that any way of counting gives ten or fewer.
    let digits = or(number(text, 10), "0");
    let end = if text.ends_with('元') { "元" } else { "" };
    format!("{currency}{digits}{end}")
}

fn car_number(text: &str) -> String {
    let taken: Vec<char> = text.chars().filter(|c| c.is_ascii_alphanumeric() || is_han(*c)).collect();
    let last = taken.len().saturating_sub(1).min(7);
    let at_an_end = |at: usize| at == 0 || at == last;
    let kept = taken.iter().take(8).enumerate().filter(|(at, c)| c.is_ascii() || at_an_end(*at));
    kept.map(|(_, c)| *c).collect()
}

fn name(text: &str) -> String {
    let foreign = |c: char| c.is_ascii_graphic() && !c.is_ascii_digit() || c == ' ';
    let text = one_line(&only(text, usize::MAX, |c| is_han(c) || foreign(c)));
    let most = if text.chars().any(is_han) { 10 } else { 20 };
    or(beginning(&text, most).trim_end().to_owned(), "无")
}

/// Whether a text is a time or a date as the table has them, or two with `~` between them.
fn is_when(text: &str, needs_time: bool) -> bool {
    let mut ends = text.split('~').map(str::trim);
    let valid = |one: &str| match one.split_once(' ') {
        Some((date, time)) => is_date(date) && is_time(time),
        None if needs_time => is_time(one),
        None => is_date(one),
    };
    ends.next().is_some_and(valid) && ends.next().is_none_or(valid) && ends.next().is_none()
}

/// `15:01` or `15:01:59`.
fn is_time(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let within = |part: &str, end: u32| part.len() == 2 && number_below(part, end);
    match parts.as_slice() {
        [hour, rest @ ..] if matches!(rest.len(), 1 | 2) => {
            within(hour, 24) && rest.iter().all(|part| within(part, 60))
        }
        _ => false,
    }
}

/// A year, month and day in Chinese, or with `-`, `/` or `.` between them. All three: a date
/// that leaves one out says less than a message needs.
fn is_date(text: &str) -> bool {
    let chinese = || {
        let (year, rest) = text.split_once('年')?;
        let (month, rest) = rest.split_once('月')?;
        Some([year, month, rest.strip_suffix('日')?])
    };
    let with = |separator: char| <[&str; 3]>::try_from(text.split(separator).collect::<Vec<_>>()).ok();
    let parts = chinese().or_else(|| ['-', '/', '.'].into_iter().find_map(with));
    parts.is_some_and(|[year, month, day]| {
        year.len() == 4
            && number_below(year, 10_000)
            && number_below(month, 13)
            && number_below(day, 32)
            && ![month, day].iter().any(|part| matches!(*part, "0" | "00"))
    })
}

fn number_below(text: &str, end: u32) -> bool {
    (1..=4).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit())
        && text.parse::<u32>().is_ok_and(|number| number < end)
}

#[cfg(test)]
pub(crate) mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    // 2025-11-21T16:00:00Z: in China it is the next day.
    const AT: u64 = 1_763_740_800_000;

    fn fit(field: &str, text: &str) -> String {
        Kind::of(field).expect("a kind").fit(text, AT)
    }

    #[test]
    fn a_name_says_the_kind() {
        assert_eq!(Kind::of("thing1"), Some(Kind::Thing));
        assert_eq!(Kind::of("character_string01"), Some(Kind::CharacterString));
        for none in ["", "1", "thing", "things1", "Thing1", "thing1a"] {
            assert_eq!(Kind::of(none), None, "{none}");
        }
    }

    #[test]
    fn a_long_text_ends_with_a_mark_within_the_limit() {
        assert_eq!(
            fit("thing1", "一二三四五六七八九十一二三四五六七八九十"),
            "一二三四五六七八九十一二三四五六七八九十"
        );
        assert_eq!(
            fit("thing1", "一二三四五六七八九十一二三四五六七八九十一"),
            "一二三四五六七八九十一二三四五六七八九…"
        );
        assert_eq!(fit("thing1", "line\r\nbreak\u{2028}\u{0}  and\ttab"), "line break and tab");
        // A pair of surrogates is not cut in two.
        assert_eq!(fit("thing1", &"😀".repeat(11)), format!("{}…", "😀".repeat(9)));
        assert_eq!(fit("short_thing1", "文章总结与翻译"), "文章总结…");
        assert_eq!(fit("character_string1", &"a".repeat(40)), format!("{}...", "a".repeat(29)));
    }

    #[test]
    fn each_kind_takes_its_own_characters() {
        for (field, text, expected) in [
            ("thing1", "", "无"),
            ("thing1", " \n ", "无"),
            ("number1", "about -1,234.56.7 yuan", "1234.567"),
            ("number1", ".5", "5"),
            ("number1", "12.", "12"),
            ("number1", "none", "0"),
            ("letter1", "ab 12 cd", "abcd"),
            ("letter1", "一", "N"),
            ("symbol1", "a-b+c", "-+"),
            ("symbol1", "abc", "-"),
            ("character_string1", "req_1 总结 ok", "req_1--ok"),
            ("character_string1", "总结", "-"),
            ("amount1", "共 ￥1,234.50 元", "￥1234.50元"),
            ("amount1", "$12345678901234", "$1234567890"),
            ("amount1", "free", "0"),
            ("phone_number1", "+86-0766-66888866", "+86-0766-66888866"),
            ("phone_number1", "call me", "0"),
            ("car_number1", "粤A8Z888挂", "粤A8Z888挂"),
            ("car_number1", "粤A·8Z好888888挂", "粤A8Z888"),
            ("name1", "张 三丰", "张 三丰"),
            ("name1", "Alexander von Humboldt Junior", "Alexander von Humbol"),
            ("name1", "R2D2", "RD"),
            ("name1", "一二三四五六七八九十一", "一二三四五六七八九十"),
            ("phrase1", "已完成!", "已完成"),
            ("phrase1", "done", "通知"),
            ("phrase1", "一二三四五六", "一二三四五"),
            ("enum1", "A", "A"),
        ] {
            assert_eq!(fit(field, text), expected, "{field}: {text}");
        }
    }

    #[test]
    fn a_time_is_kept_and_anything_else_is_the_present() {
        let now = "2025年11月22日 00:00";
        assert_eq!(in_china(AT, true), now);
        assert_eq!(in_china(AT, false), "2025-11-22 00:00");
        assert!(in_china(u64::MAX, true).contains('年'));
        for good in ["15:01", "15:01:59", "2019年10月1日 15:01", "2019-10-01 15:01", "15:01~16:02"] {
            assert_eq!(fit("time1", good), good);
        }
        for good in ["2019年10月1日", "2019/10/01", "2019.10.01 15:01", "2019-10-01~2019-10-02"] {
            assert_eq!(fit("date1", good), good);
        }
        for bad in
            ["", "soon", "24:00", "15:60", "15", "2019-13-01 10:00", "2019-10-01", "1:1", "15:01~~16:00"]
        {
            assert_eq!(fit("time1", bad), now, "{bad}");
        }
        for bad in ["15:01", "2019年0月1日", "19-10-01", "2019-10-32", "2019-10", "a-b-c"] {
            assert_eq!(fit("date1", bad), now, "{bad}");
        }
    }

    /// What the table says of each kind, in other words than the code above.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn fits(kind: Kind, text: &str) -> bool {
        let length = text.encode_utf16().count();
        let all = |pattern: &str| regex_lite::Regex::new(pattern).expect("a pattern").is_match(text);
        let no_control = !text.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}');
        let date = r"\d{4}(年\d{1,2}月\d{1,2}日|[-/.]\d{1,2}[-/.]\d{1,2})";
        let clock = r"[0-2]\d:[0-5]\d(:[0-5]\d)?";
        let range = |one: &str| format!(r"^{one}(\s?~\s?{one})?$");
        no_control
            && !text.trim().is_empty()
            && match kind {
                Kind::Thing | Kind::Enum => length <= 20,
                Kind::ShortThing => length <= 5,
                Kind::Number => length <= 32 && all(r"^\d+(\.\d+)?$"),
                Kind::Letter => length <= 32 && all("^[A-Za-z]+$"),
                Kind::Symbol => length <= 5 && !text.chars().any(char::is_alphanumeric),
                Kind::CharacterString => length <= 32 && all("^[!-~]+$"),
                Kind::Time => all(&range(&format!("({date} )?{clock}"))),
                Kind::Date => all(&range(&format!("{date}( {clock})?"))),
                Kind::Amount => all(r"^[¥￥$€£]?[\d.]{1,10}元?$") && all(r"^\D?\d+(\.\d+)?元?$"),
                Kind::PhoneNumber => length <= 17 && all(r"^[\d+*#()-]+$"),
                Kind::CarNumber => {
                    length <= 8
                        && all(r"^[\u{4e00}-\u{9fff}A-Za-z0-9][A-Za-z0-9]*[\u{4e00}-\u{9fff}A-Za-z0-9]?$")
                }
                Kind::Name => {
                    let chinese = text.chars().any(is_han);
                    length <= if chinese { 10 } else { 20 } && !text.chars().any(|c| c.is_ascii_digit())
                }
                Kind::Phrase => length <= 5 && text.chars().all(is_han),
            }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_text_fits_its_field(
            text in "([\\d.:~ 年月日/元￥-]|[a-zA-Z一-龥]|\\PC|[\\s\\x00-\\x1f]){0,80}",
            at_ms in 0..4_000_000_000_000_u64,
        ) {
            for (_, kind) in KINDS {
                let fitted = kind.fit(&text, at_ms);
                proptest::prop_assert!(fits(kind, &fitted), "{:?}: {:?}", kind, fitted);
                // What fits already stays as it is.
                proptest::prop_assert_eq!(kind.fit(&fitted, at_ms), fitted);
            }
        }

        #[test]
        fn no_time_panics(at_ms: u64) {
            proptest::prop_assert!(in_china(at_ms, true).contains('日'));
        }
    }
}
