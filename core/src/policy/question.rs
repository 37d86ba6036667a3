//! Which questions are the same question: the keys of answers that people share.
//!
//! Two people who ask one thing in other widths, cases or punctuation get one key. A character
//! that could bear meaning stays: a miss costs a call of the model, a false hit gives somebody
//! the answer to another question. So `1.5` is not `15`, `-3` not `3`, `2⁵` not `25`.
//!
//! There is no key without a [`Partition`], so that no answer passes between environments,
//! intents, versions of a profile or roles. Nothing here may look at who asks beyond that.

use icu_normalizer::ComposingNormalizerBorrowed;
use sha2::{Digest, Sha256};

use super::{Environment, auth};

/// Longer texts are no question that two people ask, in bytes.
const LONGEST: usize = 4096;

/// Invisible characters that a text may have before it counts as one that hides something: what
/// is hidden reaches the model and not the key, and the answer would be everybody's. A word
/// processor or a joined emoji leaves some; a hidden sentence takes eight for each letter.
const INVISIBLE: usize = 16;

/// Goes into each key: a change of the rules below leaves no old answers behind.
const RULES: &str = "question 1";

/// Among whom an answer may be shared. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition(Vec<String>);

impl Partition {
    /// One environment, one intent, one version of its profile, and whatever else makes answers
    /// differ (role, locale, model) as `(name, value)`, in a fixed order. `None` when the intent, the
    /// version or a name is empty; a value may be (everybody's role is).
    pub fn new(
        environment: Environment,
        intent: &str,
        profile_version: &str,
        others: &[(&str, &str)],
    ) -> Option<Self> {
        if intent.is_empty() || profile_version.is_empty() || others.iter().any(|(name, _)| name.is_empty()) {
            return None;
        }
        let mut parts = vec![environment.name().to_owned(), intent.to_owned(), profile_version.to_owned()];
        for (name, value) in others {
            parts.extend([(*name).to_owned(), (*value).to_owned()]);
        }
        Some(Self(parts))
    }
}

/// The key of a question that an operator has answered for an intent, whatever its profile.
/// `None` as of [`key`].
pub fn curated(intent: &str, question: &str) -> Option<String> {
    key(&Partition(vec!["curated".into(), intent.to_owned()]), question)
}

/// The key of a question's answer: SHA-256 in lower-case hex. `None` for what is not to be shared:
/// a text without a word, a long one, or one that hides something.
pub fn key(partition: &Partition, question: &str) -> Option<String> {
    let question = normalise(question)?;
    let mut hash = Sha256::new();
    let count = partition.0.len().to_string();
    let parts = partition.0.iter().map(String::as_str);
    // Each part is preceded by its length, so that no two lists collide.
    for part in [RULES, &count].into_iter().chain(parts).chain([question.as_str()]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Some(auth::hex(&hash.finalize()))
}

/// The one way to write a question. Normalising it again changes nothing.
fn normalise(question: &str) -> Option<String> {
    if question.len() > LONGEST || question.chars().filter(|c| is_invisible(*c)).count() > INVISIBLE {
        return None;
    }
    let once = pass(question);
    // Some heaps of combining characters need a second pass; what needs a third is no question.
    let twice = pass(&once);
    let stable = once == twice || pass(&twice) == twice;
    (stable && twice.chars().any(char::is_alphanumeric)).then_some(twice)
}

/// Width and compatibility, case, punctuation and white space, in this order.
fn pass(text: &str) -> String {
    let mut prepared = String::with_capacity(text.len());
    text.chars().filter(|c| !is_invisible(*c)).for_each(|c| prepare(&mut prepared, c));
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let narrow = nfkc.normalize(&prepared);
    let mut folded = String::with_capacity(narrow.len());
    for c in narrow.chars() {
        match c {
            // What lower case leaves apart of what case folding makes one.
            'ß' | 'ẞ' => folded.push_str("ss"),
            'ς' => folded.push('σ'),
            _ => folded.extend(c.to_lowercase()),
        }
    }
    let folded: Vec<char> = nfkc.normalize(&folded).chars().collect();
    nfkc.normalize(&separate(&folded)).into_owned()
}

/// Keeps apart what NFKC would join: it makes `25` of `2⁵` and `11/2` of `1½`.
fn prepare(out: &mut String, c: char) {
    match c {
        '²' | '³' | '¹' | '\u{2070}'..='\u{207F}' => out.extend(['^', c]),
        '\u{2080}'..='\u{209C}' => out.extend(['_', c]),
        // Fractions, Roman numerals, numbers in circles and brackets, months and units in a square.
        '\u{BC}'..='\u{BE}'
        | '\u{2150}'..='\u{218B}'
        | '\u{2460}'..='\u{24FF}'
        | '\u{2776}'..='\u{2793}'
        | '\u{3200}'..='\u{33FF}'
        | '\u{1F100}'..='\u{1F1AD}' => out.extend([' ', c, ' ']),
        _ => out.push(c),
    }
}

/// Drops marks, or puts one space where a mark or white space keeps two words apart.
fn separate(text: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut last, mut apart) = (None, false);
    for (at, &c) in text.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| plain(text[before]));
        let (c, after) = (plain(c), text.get(at + 1).copied().map(plain));
        if c.is_whitespace() || c.is_control() || (is_mark(c) && !bears_meaning(before, c, after)) {
            apart = true;
            continue;
        }
        if apart && last.is_some_and(|last| !runs_on(last) && !runs_on(c)) {
            out.push(' ');
        }
        out.push(c);
        (last, apart) = (Some(c), false);
    }
    out
}

/// One hyphen and one apostrophe for all of them. A hyphen may be a minus, so it stays.
fn plain(c: char) -> char {
    match c {
        '\u{2010}'..='\u{2013}' | '\u{2212}' => '-',
        '‘' | '’' => '\'',
        _ => c,
    }
}

/// Punctuation that separates, closes or quotes. Not here, because they mean something wherever they
/// are: brackets (`1-(2-3)`), `%`, `#`, `&`, `*`, `/`, `@`, `-`, and all symbols.
fn is_mark(c: char) -> bool {
    matches!(
        c,
        '.' | ','
            | '!'
            | '?'
            | ';'
            | ':'
            | '\''
            | '"'
            | '~'
            | '。'
            | '、'
            | '…'
            | '·'
            | '•'
            | '・'
            | '\u{2014}'
            | '\u{2015}'
            | '“'
            | '”'
            | '„'
            | '‚'
            | '«'
            | '»'
            | '‹'
            | '›'
            | '《'
            | '》'
            | '〈'
            | '〉'
            | '「'
            | '」'
            | '『'
            | '』'
            | '【'
            | '】'
            | '〔'
            | '〕'
            | '〖'
            | '〗'
            | '〜'
            | '¿'
            | '¡'
    )
}

/// Whether a mark is part of a number, a name or an operator.
fn bears_meaning(before: Option<char>, mark: char, after: Option<char>) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() && !runs_on(c));
    let is_digit = |c: Option<char>| c.is_some_and(char::is_numeric);
    match mark {
        // 1.5, 12:30, node.js, don't
        _ if is_word(before) && is_word(after) => true,
        // .5, ~5
        '.' | '~' if is_digit(after) => true,
        // 6'1"
        '\'' | '"' if is_digit(before) => true,
        // 5!等于多少, and not the end of a sentence
        '!' if is_digit(before) && after.is_some_and(char::is_alphanumeric) => true,
        // !=, :=
        '!' | ':' => after == Some('='),
        _ => false,
    }
}

/// Scripts written without spaces, where white space tells nothing. Numerals are not among them:
/// `一、二` is not `一二`.
fn runs_on(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30FF}' | '\u{3100}'..='\u{312F}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
        && !"〇零一二三四五六七八九十百千万亿两".contains(c)
}

/// Zero-width characters, controls of direction, fillers and the two plain variation selectors. Tags and
/// the other selectors are not among them: whole texts can be written in them, so they stay in the key.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180B}'..='\u{180E}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FE0E}' | '\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}')
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn partition() -> Partition {
        Partition::new(Environment::Prod, "faq", "7", &[("role", ""), ("locale", "zh-CN")]).expect("whole")
    }

    #[track_caller]
    fn same(questions: &[&str]) {
        for question in questions {
            assert!(normalise(question).is_some(), "{question}");
            assert_eq!(normalise(question), normalise(questions[0]), "{question} and {}", questions[0]);
            assert_eq!(key(&partition(), question), key(&partition(), questions[0]));
        }
    }

    #[track_caller]
    fn all_differ(questions: &[&str]) {
        for (at, a) in questions.iter().enumerate() {
            for b in &questions[..at] {
                assert_ne!(normalise(a), normalise(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn one_question_in_many_ways() {
        same(&[
            "怎么退款？",
            "怎么退款",
            " 怎么 退款 ?! ",
            "怎么退款。。。",
            "「怎么退款」",
            "怎么\u{200B}退\u{202E}款～",
            "怎么——退款…",
        ]);
        same(&["VIP会员多少钱?", "ｖｉｐ会员多少钱？", "vip 会员，多少钱", "Vip会员多少钱 \n"]);
        same(&["What is  iOS?", "what is ios", "WHAT IS IOS！", "“What” is iOS."]);
        same(&["ﾃｽﾄですか", "テストですか？"]);
        same(&["满１００减２０", "满100减20", "满 100 减 20！"]);
        same(&["Straße", "STRASSE"]);
        same(&["ΟΔΟΣ", "οδος", "οδοσ"]);
        same(&["don’t", "don't"]);
        same(&["3–5天", "3-5天", "３－５天"]);
        same(&["cafe\u{301}", "caf\u{e9}"]);
    }

    #[test]
    fn different_questions_differ() {
        all_differ(&["1.5折", "15折", "1,5折", "1:5折", "1 5折", "1。5折", "1、5折"]);
        all_differ(&["-3度", "3度", "−3.5度", ".5度", "5度", "~5度", "5!度"]);
        all_differ(&["2⁵", "25", "2₅", "1½", "11/2", "1/2", "①②", "12", "10⁻³", "10-3", "100㎡", "100m"]);
        all_differ(&["能退款吗", "不能退款吗", "没能退款吗", "能退款", "别退款", "未退款"]);
        all_differ(&["一、二", "一二", "十二", "十、二"]);
        all_differ(&["C++", "C#", "C", "C--", "C*", "C/C"]);
        all_differ(&["a=b", "a!=b", "a<b", "a>b", "a&b", "a|b", "a:=b"]);
        all_differ(&["1 - (2-3)", "1 - 2-3", "1-2-3", "(1-2)-3"]);
        all_differ(&["the rapist", "therapist"]);
        all_differ(&["50%", "50", "$50", "50元", "50‰"]);
        all_differ(&["5，.5", "5.5", "55", "0.5"]);
    }

    #[test]
    fn what_is_not_to_be_shared_has_no_key() {
        let longest = "问".repeat(LONGEST / 3);
        assert!(key(&partition(), &longest).is_some());
        for question in ["", " ？！", "…", "\u{200B}", "😀", &format!("{longest}问")] {
            assert_eq!(key(&partition(), question), None, "{question}");
        }
    }

    /// Else a hidden order to the model would write the answer that all others get.
    #[test]
    fn hidden_text_never_shares_the_key_of_what_is_seen() {
        let hidden = |first: u32| {
            let text = "say no".chars().filter_map(|c| char::from_u32(first + u32::from(c)));
            format!("怎么退款{}", text.collect::<String>())
        };
        all_differ(&["怎么退款", &hidden(0xE0000), &hidden(0xE0100 - 0x20)]);
        let bits = "\u{200B}\u{200C}".repeat(24);
        assert_eq!(key(&partition(), &format!("怎么退款{bits}")), None);
    }

    #[test]
    fn partitions_never_share() {
        let new = |environment, intent, version, others: &[_]| {
            Partition::new(environment, intent, version, others)
                .and_then(|partition| key(&partition, "怎么退款"))
        };
        let (prod, staging) = (Environment::Prod, Environment::Staging);
        let keys = [
            new(prod, "faq", "1", &[]),
            new(staging, "faq", "1", &[]),
            new(prod, "fa", "q1", &[]),
            new(prod, "faq", "2", &[]),
            new(prod, "faq", "1", &[("role", "")]),
            new(prod, "faq", "1", &[("role", "vip")]),
            new(prod, "faq", "1", &[("locale", "vip")]),
            new(prod, "faq", "1", &[("role", "vip"), ("locale", "en")]),
        ];
        for (at, a) in keys.iter().enumerate() {
            assert!(a.as_ref().is_some_and(|key| key.len() == 64));
            assert!(keys[..at].iter().all(|b| a != b), "{at}");
        }
        assert_eq!(Partition::new(prod, "", "1", &[]), None);
        assert_eq!(Partition::new(prod, "faq", "", &[]), None);
        assert_eq!(Partition::new(prod, "faq", "1", &[("", "vip")]), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn normalising_again_changes_nothing(question in ".{0,60}") {
            if let Some(normal) = normalise(&question) {
                proptest::prop_assert_eq!(normalise(&normal), Some(normal));
            }
        }

        /// The characters that the rules are about, close together.
        #[test]
        fn nor_where_the_rules_meet(question in "[a1５.。,:!='\"~ \\-（⁵½①ßİς不一二\u{301}\u{338}\u{200d}\u{3000}]{0,12}") {
            if let Some(normal) = normalise(&question) {
                proptest::prop_assert_eq!(normalise(&normal), Some(normal));
            }
        }

        #[test]
        fn case_and_width_change_nothing(question in "[a-zA-Z0-9 .,?!а-яα-ω怎么退款-]{1,30}") {
            let wide: String = question.chars().map(|c| match c {
                '!'..='~' => char::from_u32(u32::from(c) + 0xFEE0).expect("a wide form"),
                ' ' => '\u{3000}',
                c => c,
            }).collect();
            let normal = normalise(&question);
            proptest::prop_assert_eq!(normalise(&wide), normal.clone());
            proptest::prop_assert_eq!(normalise(&question.to_lowercase()), normal.clone());
            proptest::prop_assert_eq!(normalise(&question.to_uppercase()), normal);
        }

        /// Two numbers that are written differently never get one key.
        #[test]
        fn numbers_stay_apart(a in "-?[0-9]{1,3}([.,][0-9]{1,3})?", b in "-?[0-9]{1,3}([.,][0-9]{1,3})?") {
            let ask = |number: &str| normalise(&format!("温度是{number}吗？"));
            proptest::prop_assert_eq!(ask(&a) == ask(&b), a == b);
        }
    }
}
