//! Which messages of a conversation are left out where a model does not hold all of them.
//!
//! What the agent is (system messages) and what is asked now (the newest user message and the last
//! answers of tools to it) stays, or nothing would be worth answering.

use serde::{Deserialize, Serialize};

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    /// A tool's result: worth nothing without the call before it.
    Tool,
}

/// A message by its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Weighed {
    pub(crate) role: Role,
    /// Estimated tokens.
    pub(crate) tokens: u32,
}

/// Says of each message whether it stays, when what stays has at most `budget` estimated tokens.
/// Whole turns go first, the oldest first; then, of the newest one, its oldest rounds of calls and
/// results, but never the last. `None` when the rest is still too much.
pub(crate) fn trim(messages: &[Weighed], budget: u64) -> Option<Vec<bool>> {
    let mut stays = vec![true; messages.len()];
    let mut sum: u64 = messages.iter().map(|message| u64::from(message.tokens)).sum();
    let newest = messages.iter().rposition(|message| message.role == Role::User);
    let groups = groups(messages, newest);
    let asked = newest.map(|newest| groups[newest]);
    for group in (0..groups.last().copied().unwrap_or_default()).filter(|group| Some(*group) != asked) {
        if sum <= budget {
            break;
        }
        for (at, message) in messages.iter().enumerate() {
            if groups[at] == group && message.role != Role::System {
                stays[at] = false;
                sum -= u64::from(message.tokens);
            }
        }
    }
    (sum <= budget).then_some(stays)
}

/// The number of the group that each message goes with: of whole turns up to the newest user
/// message, of rounds after it.
fn groups(messages: &[Weighed], newest: Option<usize>) -> Vec<usize> {
    let (mut group, mut before) = (0, None);
    let mut number = |(at, message): (usize, &Weighed)| {
        let is_newer = newest.is_none_or(|newest| at > newest);
        let begins = match message.role {
            Role::User => before.is_some_and(|role| role != Role::User),
            Role::Assistant => is_newer && before.is_some(),
            Role::System | Role::Tool => false,
        };
        if message.role != Role::System {
            before = Some(message.role);
        }
        group += usize::from(begins);
        group
    };
    messages.iter().enumerate().map(&mut number).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// `s`, `u`, `a` and `t`, ten tokens each.
    fn conversation(roles: &str) -> Vec<Weighed> {
        let role = |letter| match letter {
            's' => Role::System,
            'u' => Role::User,
            'a' => Role::Assistant,
            _ => Role::Tool,
        };
        roles.chars().map(|letter| Weighed { role: role(letter), tokens: 10 }).collect()
    }

    /// What stays, by its letters; the others are dots.
    fn left(roles: &str, messages: u64) -> Option<String> {
        let stays = trim(&conversation(roles), messages * 10)?;
        Some(roles.chars().zip(stays).map(|(letter, stays)| if stays { letter } else { '.' }).collect())
    }

    #[test]
    fn the_oldest_turns_go_first_and_whole() {
        let left = |messages| left("suauatau", messages);
        assert_eq!(left(8).as_deref(), Some("suauatau"));
        assert_eq!(left(7).as_deref(), Some("s..uatau"));
        assert_eq!(left(5).as_deref(), Some("s......u"));
        assert_eq!(left(2).as_deref(), Some("s......u"));
        assert_eq!(left(1), None);
    }

    #[test]
    fn of_the_newest_turn_the_oldest_rounds_go() {
        let left = |messages| left("suauattatat", messages);
        assert_eq!(left(9).as_deref(), Some("s..uattatat"));
        assert_eq!(left(8).as_deref(), Some("s..u...atat"));
        assert_eq!(left(4).as_deref(), Some("s..u.....at"));
        assert_eq!(left(3), None);
    }

    #[test]
    fn words_of_the_system_stay_wherever_they_stand() {
        assert_eq!(left("usasu", 3).as_deref(), Some(".s.su"));
        assert_eq!(left("ausu", 3).as_deref(), Some(".usu"), "two messages of one person in a row");
        assert_eq!(left("sat", 3).as_deref(), Some("sat"), "nobody asked");
        assert_eq!(left("", 0).as_deref(), Some(""));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        #[test]
        fn whatever_was_said(roles in "[suat]{0,24}", weights in proptest::collection::vec(0u32..100, 24), budget in 0u64..1_500) {
            let mut messages = conversation(&roles);
            messages.iter_mut().zip(weights).for_each(|(message, tokens)| message.tokens = tokens);
            let all: u64 = messages.iter().map(|message| u64::from(message.tokens)).sum();
            let Some(stays) = trim(&messages, budget) else {
                prop_assert!(all > budget);
                return Ok(());
            };
            let sum: u64 = messages.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(m, _)| u64::from(m.tokens)).sum();
            prop_assert!(sum <= budget);
            prop_assert!(all > budget || stays.iter().all(|stays| *stays), "nothing goes without need");
            prop_assert!(stays.last().copied().unwrap_or(true), "the newest message stays");
            let newest = messages.iter().rposition(|message| message.role == Role::User);
            prop_assert!(newest.is_none_or(|at| stays[at]));
            for (at, message) in messages.iter().enumerate() {
                prop_assert!(message.role != Role::System || stays[at]);
                // A result stays with what was before it, and goes with it.
                let before = messages[..at].iter().rposition(|message| message.role != Role::System);
                if let (Role::Tool, Some(before)) = (message.role, before) {
                    prop_assert_eq!(stays[at], stays[before], "{}", roles);
                }
            }
        }
    }
}
