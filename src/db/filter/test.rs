//! Conditions on a single value: comparison, range, list, pattern.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::format::attrs::Scalar;

/// A constant of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Literal {
    /// How a value stands to this constant; `None` if they are of different kinds.
    fn order_of(&self, scalar: Scalar<'_>) -> Option<Ordering> {
        compare(scalar, self.as_scalar())
    }

    fn as_scalar(&self) -> Scalar<'_> {
        match self {
            Self::Bool(b) => Scalar::Bool(*b),
            Self::Int(i) => Scalar::Int(*i),
            Self::Float(x) => Scalar::Float(*x),
            Self::Text(s) => Scalar::Text(s),
        }
    }
}

/// How the first stands to the second; `None` if they are of different kinds.
pub(super) fn compare(a: Scalar<'_>, b: Scalar<'_>) -> Option<Ordering> {
    match (a, b) {
        (Scalar::Bool(a), Scalar::Bool(b)) => Some(a.cmp(&b)),
        (Scalar::Text(a), Scalar::Text(b)) => Some(a.cmp(b)),
        (Scalar::Int(a), Scalar::Int(b)) => Some(a.cmp(&b)),
        (Scalar::Int(a), Scalar::Float(b)) => int_to_float(a, b),
        (Scalar::Float(a), Scalar::Int(b)) => int_to_float(b, a).map(Ordering::reverse),
        (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(&b),
        _ => None,
    }
}

/// Compares by value, where converting the integer would round it. `None` for NaN.
fn int_to_float(int: i64, float: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0; // 2⁶³
    if float.is_nan() {
        None
    } else if float >= BEYOND {
        Some(Ordering::Less)
    } else if float < -BEYOND {
        Some(Ordering::Greater)
    } else {
        // In range, so the cast only drops the fraction, which then breaks the tie.
        Some(int.cmp(&(float as i64)).then(0.0.partial_cmp(&float.fract())?))
    }
}

/// Comparison operators; `!=` is the negation of `=`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Op {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Op {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterEqual => order.is_ge(),
        }
    }

    /// The operator with its sides exchanged.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
        }
    }
}

/// A condition on one value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    /// The value is `true`.
    Holds,
    Compare(Op, Literal),
    Between(Literal, Literal),
    In(List),
    Like(Pattern),
}

impl Test {
    /// The constants at which the answer may change along ascending values of one kind; `None` if it may change
    /// anywhere.
    pub(super) fn bounds(&self) -> Option<Vec<Scalar<'_>>> {
        match self {
            Self::Compare(_, literal) => Some(vec![literal.as_scalar()]),
            Self::Between(low, high) => Some(vec![low.as_scalar(), high.as_scalar()]),
            Self::In(list) => {
                let texts = list.texts.iter().map(|text| Scalar::Text(text));
                let bools = list.bools.iter().map(|&value| Scalar::Bool(value));
                Some(texts.chain(bools).chain(list.numbers.iter().map(Literal::as_scalar)).collect())
            }
            Self::Holds | Self::Like(_) => None,
        }
    }

    /// Whether the value meets the condition; `None` if that is unknown.
    pub(super) fn of(&self, scalar: Scalar<'_>) -> Option<bool> {
        match (self, scalar) {
            (Self::Holds, Scalar::Bool(value)) => Some(value),
            (Self::Holds, _) => None,
            (Self::Compare(op, literal), _) => literal.order_of(scalar).map(|order| op.holds(order)),
            (Self::Between(low, high), _) => {
                let above = low.order_of(scalar).map(Ordering::is_ge);
                let below = high.order_of(scalar).map(Ordering::is_le);
                match (above, below) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                }
            }
            (Self::In(list), _) => list.contains(scalar),
            (Self::Like(pattern), Scalar::Text(text)) => Some(pattern.matches(text)),
            (Self::Like(_), _) => None,
        }
    }
}

/// The constants of an `IN`, by kind, so that a long list costs a logarithm.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct List {
    texts: BTreeSet<String>,
    numbers: Vec<Literal>,
    bools: Vec<bool>,
}

impl List {
    pub(super) fn new(literals: impl IntoIterator<Item = Literal>) -> Self {
        let mut list = Self::default();
        for literal in literals {
            match literal {
                Literal::Text(text) => drop(list.texts.insert(text)),
                Literal::Bool(value) => list.bools.push(value),
                number => list.numbers.push(number),
            }
        }
        // The parser makes no NaN, so numbers always have an order.
        list.numbers.sort_by(|a, b| b.order_of(a.as_scalar()).unwrap_or(Ordering::Equal));
        list
    }

    fn contains(&self, scalar: Scalar<'_>) -> Option<bool> {
        match scalar {
            Scalar::Null => None,
            Scalar::Text(text) => (!self.texts.is_empty()).then(|| self.texts.contains(text)),
            Scalar::Bool(value) => (!self.bools.is_empty()).then(|| self.bools.contains(&value)),
            Scalar::Int(_) | Scalar::Float(_) => {
                let at = self.numbers.partition_point(|n| n.order_of(scalar) == Some(Ordering::Greater));
                self.numbers.get(at).or(self.numbers.last())?.order_of(scalar).map(Ordering::is_eq)
            }
        }
    }
}

/// A `LIKE` pattern: `%` stands for any characters, `_` for one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    fold_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Char(char),
    One,
    Many,
}

impl Pattern {
    /// Reads a pattern; `None` if it ends in the escape character.
    pub(super) fn new(text: &str, escape: Option<char>, fold_case: bool) -> Option<Self> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                _ if Some(c) == escape => Part::Char(chars.next()?),
                '%' if parts.last() == Some(&Part::Many) => continue,
                '%' => Part::Many,
                '_' => Part::One,
                _ => Part::Char(c),
            });
        }
        Some(Self { parts, fold_case })
    }

    /// Greedy matching: on a mismatch, the last `%` takes one more character. No recursion; the time is at most the
    /// product of the lengths.
    fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        let mut retry = None;
        loop {
            let before = rest.clone();
            match (self.parts.get(at), rest.next()) {
                (None, None) => return true,
                (Some(Part::Many), _) => {
                    at += 1;
                    rest = before.clone();
                    retry = Some((at, before));
                }
                (Some(part), Some(c)) if self.accepts(*part, c) => at += 1,
                // Starting over later leaves even fewer characters for the same parts.
                (Some(_), None) => return false,
                _ => {
                    let Some((after, mut from)) = retry.take() else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    (at, rest) = (after, from.clone());
                    retry = Some((after, from));
                }
            }
        }
    }

    fn accepts(&self, part: Part, c: char) -> bool {
        match part {
            Part::Char(wanted) => {
                wanted == c || (self.fold_case && wanted.to_lowercase().eq(c.to_lowercase()))
            }
            Part::One | Part::Many => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_fractions_compare_by_value() {
        let cases = [
            (9_007_199_254_740_993, 9_007_199_254_740_992.0, Ordering::Greater),
            (i64::MAX, 9_223_372_036_854_775_808.0, Ordering::Less),
            (i64::MIN, -9_223_372_036_854_775_808.0, Ordering::Equal),
            (i64::MIN, f64::NEG_INFINITY, Ordering::Greater),
            (i64::MAX, f64::INFINITY, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (1, 1.5, Ordering::Less),
            (0, -0.0, Ordering::Equal),
            (0, -0.5, Ordering::Greater),
            (3, 3.0, Ordering::Equal),
        ];
        for (int, float, order) in cases {
            assert_eq!(Literal::Float(float).order_of(Scalar::Int(int)), Some(order), "{int} {float}");
            assert_eq!(
                Literal::Int(int).order_of(Scalar::Float(float)),
                Some(order.reverse()),
                "{float} {int}"
            );
        }
        assert_eq!(Literal::Int(0).order_of(Scalar::Float(f64::NAN)), None);
        assert_eq!(Literal::Int(0).order_of(Scalar::Text("0")), None);
    }

    #[test]
    fn patterns_match_whole_texts() {
        let cases = [
            ("How%", "How do I", true),
            ("How%", "how do I", false),
            ("%", "", true),
            ("", "", true),
            ("", "a", false),
            ("_", "é", true),
            ("_", "", false),
            ("%a%b%", "xxaxxbxx", true),
            ("%ab", "abab", true),
            ("%ab", "aba", false),
            ("a%%b", "ab", true),
            ("a_c%", "abcd", true),
            ("%aab%", "aaaab", true),
            ("a%b", "a", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                Pattern::new(pattern, None, false).unwrap().matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        let escaped = Pattern::new("100!%!!%", Some('!'), false).unwrap();
        assert!(escaped.matches("100%! of it") && !escaped.matches("100 !"));
        assert_eq!(Pattern::new("a!", Some('!'), false), None);
        let folded = Pattern::new("STRAßE_É%", None, true).unwrap();
        assert!(folded.matches("straße éa") && !folded.matches("strasse é"));
    }

    #[test]
    fn a_pattern_that_backtracks_is_not_exponential() {
        let pattern = Pattern::new(&"%a".repeat(50), None, false).unwrap();
        assert!(!pattern.matches(&("a".repeat(49) + &"b".repeat(20_000))));
    }

    #[test]
    fn lists_decide_by_kind() {
        let list =
            List::new([Literal::Int(3), Literal::Float(1.5), Literal::Int(-2), Literal::Text("a".into())]);
        let cases = [
            (Scalar::Int(3), Some(true)),
            (Scalar::Float(3.0), Some(true)),
            (Scalar::Float(1.5), Some(true)),
            (Scalar::Int(-2), Some(true)),
            (Scalar::Int(2), Some(false)),
            (Scalar::Int(9), Some(false)),
            (Scalar::Float(f64::NAN), None),
            (Scalar::Text("a"), Some(true)),
            (Scalar::Text("3"), Some(false)),
            (Scalar::Bool(true), None),
            (Scalar::Null, None),
        ];
        for (scalar, expected) in cases {
            assert_eq!(list.contains(scalar), expected, "{scalar:?}");
        }
    }

    #[test]
    fn ranges_are_inclusive_and_three_valued() {
        let range = Test::Between(Literal::Int(1), Literal::Float(2.5));
        for (scalar, expected) in [
            (Scalar::Int(1), Some(true)),
            (Scalar::Float(2.5), Some(true)),
            (Scalar::Float(0.5), Some(false)),
            (Scalar::Text("2"), None),
            (Scalar::Null, None),
        ] {
            assert_eq!(range.of(scalar), expected, "{scalar:?}");
        }
        let mixed = Test::Between(Literal::Int(6), Literal::Text("z".into()));
        assert_eq!((mixed.of(Scalar::Int(5)), mixed.of(Scalar::Int(7))), (Some(false), None));
    }
}
