//! Numbers of people: mobile, identity card, bank card.
//!
//! Digits may be full-width, and grouped as people write each of them, with one space or hyphen
//! between groups. A number ends where its digits end: eleven digits in the middle of twenty
//! are no mobile number. Other numbers shall stay, so each kind is asked for all that it
//! promises: segment, date, checksum, issuer.

use super::{Ahead, Found, Rules};

const MOBILE: &str = "mobile";
const ID_CARD: &str = "id";
const BANK_CARD: &str = "card";

/// Digits of the longest number: a card's (ISO/IEC 7812).
const LONGEST: usize = 19;

/// Groups of the most divided number.
const MOST_GROUPS: usize = 5;

/// From here on, a run of hex digits is a digest or a trace id; what is shorter may be a word
/// before a number (`add13800138000`).
const HEX_ID: usize = 16;

/// A number that begins here, at a digit or plus.
pub(super) fn at(rules: &Rules, past: &str, ahead: Ahead<'_>) -> Found<'static> {
    if past.chars().next_back().is_some_and(|last| digit(last).is_some()) {
        return Found::Nothing;
    }
    let signed = ahead.text.starts_with(['+', '＋']);
    let sign = if signed { ahead.text.chars().next().map_or(0, char::len_utf8) } else { 0 };
    let Some(number) = Number::read(&ahead.text[sign..], ahead.complete) else { return ahead.end() };
    if number.groups().is_empty() || in_fraction(past) {
        return Found::Nothing;
    }
    let found = if signed {
        number.mobile().filter(|_| rules.mobile && number.code() > 0).map(|groups| (groups, MOBILE))
    } else {
        let id_card = number.id_card(past).filter(|_| rules.id_card).map(|groups| (groups, ID_CARD));
        id_card
            .or_else(|| number.bank_card().filter(|_| rules.bank_card).map(|groups| (groups, BANK_CARD)))
            .or_else(|| number.mobile().filter(|_| rules.mobile).map(|groups| (groups, MOBILE)))
    };
    let Some((groups, label)) = found else { return Found::Nothing };
    let len = sign + number.groups()[groups - 1].end;
    if groups > 1 {
        return Found::secret(len, label);
    }
    match in_hex_id(past, &ahead.text[len..], number.groups()[0].digits, ahead.complete) {
        None => Found::Undecided,
        Some(true) => Found::Nothing,
        Some(false) => Found::secret(len, label),
    }
}

/// A run of digits.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    digits: usize,
    /// Where it ends, in bytes.
    end: usize,
    /// It ends with the X of an identity card, which is not counted.
    x: bool,
}

/// The digits at a place.
#[derive(Debug, Default)]
struct Number {
    digits: [u8; LONGEST],
    groups: [Group; MOST_GROUPS],
    count: usize,
}

impl Number {
    /// Reads whole groups, as many as one number can have; `None` when more of the text must be
    /// known.
    fn read(text: &str, complete: bool) -> Option<Self> {
        let mut number = Self::default();
        let (mut total, mut at) = (0, 0);
        while number.count < MOST_GROUPS {
            let mut group = Group { end: at, ..Group::default() };
            let mut rest = text[at..].chars();
            let after = loop {
                let Some(next) = rest.next() else { break None };
                let Some(value) = digit(next) else { break Some(next) };
                if total == LONGEST {
                    return Some(number);
                }
                number.digits[total] = value;
                total += 1;
                group.digits += 1;
                group.end += next.len_utf8();
            };
            if after.is_none() && !complete {
                return None;
            }
            if group.digits == 0 {
                break;
            }
            let Some(mut after) = after else {
                number.close(group);
                break;
            };
            if total == 17 && matches!(after, 'X' | 'x' | 'Ｘ' | 'ｘ') {
                // An X in a word is none: the next character tells.
                match rest.next() {
                    None if !complete => return None,
                    Some(next) if next.is_ascii_alphanumeric() || digit(next).is_some() => {}
                    _ => {
                        group.end += after.len_utf8();
                        group.x = true;
                        after = ' ';
                    }
                }
            }
            number.close(group);
            if group.x || !is_separator(after) {
                break;
            }
            at = group.end + after.len_utf8();
        }
        Some(number)
    }

    fn close(&mut self, group: Group) {
        self.groups[self.count] = group;
        self.count += 1;
    }

    fn groups(&self) -> &[Group] {
        &self.groups[..self.count]
    }

    /// Whether the first groups have so many digits.
    fn is_grouped(&self, digits: &[usize]) -> bool {
        let groups = self.groups();
        groups.len() >= digits.len()
            && groups.iter().zip(digits).all(|(group, digits)| group.digits == *digits)
    }

    /// The number of digits of a country code 86 at the start, 0 when there is none.
    fn code(&self) -> usize {
        match self.digits {
            [8, 6, ..] => 2,
            [0, 0, 8, 6, ..] => 4,
            _ => 0,
        }
    }

    /// The number of groups that are a mobile number.
    ///
    /// All of 13x to 19x: of the hundred segments a few are not given out yet.
    fn mobile(&self) -> Option<usize> {
        let code = self.code();
        let alone = usize::from(code > 0 && self.groups[0].digits == code);
        if !matches!(self.digits[code..], [1, 3..=9, ..]) {
            return None;
        }
        let shapes: [&[usize]; 4] = [&[11], &[3, 4, 4], &[4, 3, 4], &[4, 4, 3]];
        shapes.into_iter().find_map(|shape| {
            let mut digits = [0; MOST_GROUPS];
            digits[0] = code;
            digits[alone..alone + shape.len()].copy_from_slice(shape);
            if alone == 0 {
                digits[0] += code;
            }
            let count = alone + shape.len();
            self.is_grouped(&digits[..count]).then_some(count)
        })
    }

    /// The number of groups that are an identity card's (GB 11643): region, date of birth,
    /// sequence, checksum.
    ///
    /// The old numbers of 15 digits have no checksum, and one in a hundred order numbers would
    /// pass for one: they count only after a word that says so. They ended in 2013.
    fn id_card(&self, past: &str) -> Option<usize> {
        let groups = match () {
            () if self.is_grouped(&[18]) || (self.is_grouped(&[17]) && self.groups[0].x) => 1,
            () if self.is_grouped(&[6, 8, 4]) || (self.is_grouped(&[6, 8, 3]) && self.groups[2].x) => 3,
            () if self.is_grouped(&[15]) && says_id_card(past) => {
                let year = 1900 + self.value(6..8);
                return (is_region(self.value(0..2)) && is_date(year, self.value(8..10), self.value(10..12)))
                    .then_some(1);
            }
            () => return None,
        };
        let last = if self.groups[groups - 1].x { 10 } else { self.value(17..18) };
        const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
        let sum: u32 = WEIGHTS.iter().zip(self.digits).map(|(weight, digit)| weight * u32::from(digit)).sum();
        let year = self.value(6..10);
        let plausible = is_region(self.value(0..2))
            && (1900..2100).contains(&year)
            && is_date(year, self.value(10..12), self.value(12..14));
        (plausible && (12 - sum % 11) % 11 == last).then_some(groups)
    }

    /// The number of groups that are a bank card's.
    ///
    /// Luhn's checksum alone lets every tenth number pass. So the issuer must be one that is
    /// met here, with a length that it uses: then nothing that begins with a year or 1 passes,
    /// and times in milliseconds (13 digits, 1…), microseconds (16) and snowflakes (18 to 19,
    /// 1…) stay whole, as do order numbers that begin with a date.
    fn bank_card(&self) -> Option<usize> {
        let shapes: [&[usize]; 8] = [
            &[4, 4, 4, 4, 3],
            &[4, 4, 4, 4, 2],
            &[4, 4, 4, 4, 1],
            &[4, 4, 4, 4],
            &[6, 13],
            &[4, 6, 5],
            &[4, 6, 4],
            &[self.groups[0].digits],
        ];
        shapes.into_iter().find_map(|shape| {
            let len = shape.iter().sum();
            let is_card = self.is_grouped(shape)
                && self.is_issued(len)
                && is_luhn(&self.digits[..len])
                && !self.groups[shape.len() - 1].x;
            is_card.then_some(shape.len())
        })
    }

    /// Whether there are issuers of cards that begin so and have that length.
    fn is_issued(&self, len: usize) -> bool {
        match (self.value(0..4), len) {
            // Visa; its 19 digits are hardly met, and Taobao's order numbers look so.
            (4000..=4999, 13 | 16) => true,
            (5100..=5599 | 2221..=2720, 16) => true, // Mastercard
            (3400..=3499 | 3700..=3799, 15) => true, // American Express
            (3528..=3589, 16) => true,               // JCB
            (3000..=3059 | 3600..=3699 | 3800..=3999, 14) => true, // Diners Club
            // UnionPay; what banks here gave out before it, debit cards mostly.
            (6200..=6299 | 8100..=8171, 16..=19) => true,
            (6000..=6099 | 6500..=6599 | 6800..=6999, 16..=19) => true,
            (9400..=9599, 16..=19) => true,
            _ => false,
        }
    }

    fn value(&self, digits: core::ops::Range<usize>) -> u32 {
        self.digits[digits].iter().fold(0, |value, digit| value * 10 + u32::from(*digit))
    }
}

/// The value of a digit, full-width or not.
fn digit(c: char) -> Option<u8> {
    match c {
        '0'..='9' => Some(c as u8 - b'0'),
        '０'..='９' => u8::try_from(u32::from(c) - u32::from('０')).ok(),
        _ => None,
    }
}

fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '\u{A0}' | '\u{3000}' | '－')
}

fn is_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match u32::from(*digit) << (at % 2) {
            value @ 0..10 => value,
            value => value - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The provinces of GB/T 2260.
fn is_region(code: u32) -> bool {
    matches!(code, 11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83 | 91)
}

fn is_date(year: u32, month: u32, day: u32) -> bool {
    let days = match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

fn says_id_card(past: &str) -> bool {
    ["身份证", "证件号"].iter().any(|word| past.contains(word))
}

/// Whether these are the decimals of a number.
fn in_fraction(past: &str) -> bool {
    past.strip_suffix('.').is_some_and(|whole| whole.ends_with(|c: char| c.is_ascii_digit()))
}

/// Whether digits are part of a long run of hex digits; `None` when more must be known.
fn in_hex_id(past: &str, after: &str, digits: usize, complete: bool) -> Option<bool> {
    let word = |byte: &u8| byte.is_ascii_alphanumeric();
    let before = past.bytes().rev().take_while(word).count();
    let behind = after.bytes().take(HEX_ID).take_while(word).count();
    let around = past[past.len() - before..].bytes().chain(after[..behind].bytes());
    if !around.clone().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(false);
    }
    if behind == after.len() && behind < HEX_ID && !complete {
        return None;
    }
    Some(before + behind > 0 && before + digits + behind >= HEX_ID)
}
