//! Complaints that are logged once for as long as they last.

use std::fmt::Display;

/// The complaints that are not over, each with a slot of its own: two that alternate are logged once
/// each.
#[derive(Debug)]
pub struct Complaints<K>(Vec<(K, String)>);

impl<K> Default for Complaints<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq> Complaints<K> {
    /// Takes a complaint. Returns whether to log it: it is new, or its text changed.
    pub fn is_new(&mut self, kind: K, text: impl Display) -> bool {
        let text = format!("{text:#}");
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, last)) => std::mem::replace(last, text.clone()) != text,
            None => {
                self.0.push((kind, text));
                true
            }
        }
    }

    /// Whether one of this kind is not over.
    pub fn has(&self, kind: &K) -> bool {
        self.0.iter().any(|(of, _)| of == kind)
    }

    /// Whether all of them are over.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the complaints of these kinds: the next one is logged.
    pub fn end(&mut self, of: impl Fn(&K) -> bool) {
        self.0.retain(|(kind, _)| !of(kind));
    }

    /// Takes what was tried: an error is a complaint, a success ends it. Returns the error if it is
    /// to be logged.
    pub fn follow<'r, T, E: Display>(
        &mut self,
        kind: K,
        result: &'r Result<T, E>,
    ) -> Option<&'r E> {
        match result {
            Ok(_) => {
                self.end(|known| *known == kind);
                None
            }
            Err(error) => self.is_new(kind, error).then_some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each step is a kind and its outcome: an error's text, or nothing for a success. Returns
    /// which of them are logged.
    #[track_caller]
    fn check(steps: &[(char, &str)], expected: &[(char, &str)]) {
        let mut complaints = Complaints::default();
        let is_logged = |(kind, text): &&(char, &str)| {
            let result = match *text {
                "" => Ok(()),
                text => Err(text),
            };
            complaints.follow(*kind, &result).is_some()
        };
        let logged: Vec<_> = steps.iter().filter(is_logged).copied().collect();
        assert_eq!(logged, expected);
    }

    #[test]
    fn a_complaint_is_logged_when_it_is_new_or_changed() {
        check(&[('a', "")], &[]);
        check(&[('a', "x"), ('a', "x"), ('a', "x")], &[('a', "x")]);
        check(
            &[('a', "x"), ('b', "y"), ('a', "x"), ('b', "y")],
            &[('a', "x"), ('b', "y")],
        );
        check(
            &[('a', "x"), ('a', "y"), ('a', "y")],
            &[('a', "x"), ('a', "y")],
        );
        check(
            &[('a', "x"), ('a', ""), ('a', "x")],
            &[('a', "x"), ('a', "x")],
        );
        // The end of one is not that of another.
        check(
            &[('a', "x"), ('b', ""), ('a', "x"), ('b', ""), ('a', "x")],
            &[('a', "x")],
        );
    }

    #[test]
    fn several_kinds_end_at_once() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_new(1, "") && complaints.is_new(2, "") && complaints.is_new(3, ""));
        complaints.end(|kind| *kind < 3);
        assert!(!complaints.is_empty());
        assert!(complaints.is_new(1, "") && complaints.is_new(2, "") && !complaints.is_new(3, ""));
    }
}
