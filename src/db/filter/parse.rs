//! From text to conditions, through sqlparser.
//!
//! The tokens are checked before they are parsed. Only those of our language pass, and every word that is not one
//! of its operators becomes a quoted identifier: thus `date` or `order` need no quotes to be keys, and none of the
//! rest of SQL can be reached. The number of chained operators is bounded too, since the parser's tree is as deep
//! on its left side as the chain is long, and freeing it recurses. What comes out of the parser is then translated
//! node by node; nodes that are not listed here are refused with their position.

use sqlparser::ast::{BinaryOperator, Expr, Ident, Spanned, UnaryOperator, Value, ValueWithSpan};
use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::Node;
use super::test::{List, Literal, Op, Pattern, Test};
use crate::error::{Error, Result};
use crate::format::attrs::KEY_BYTES;

/// Longest expression, in bytes.
const EXPRESSION_BYTES: usize = 64 << 10;
/// How deep parentheses and negations may nest.
const DEPTH: usize = 128;
/// Most operators in one chain, such as `a OR b OR c`.
const CHAIN: usize = 2048;
/// How much of an expression an error repeats, in characters.
const SHOWN: usize = 200;

/// Parses an expression to its tree of conditions.
pub(super) fn parse(text: &str) -> Result<Node> {
    limit(
        "the where expression, in bytes,",
        text.len(),
        EXPRESSION_BYTES,
        "use IN for long lists, or several calls",
    )?;
    let source = Source { text };
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .map_err(|e| source.refuse(e.location, e.message))?;
    let tokens = source.admit(tokens)?;
    let mut parser =
        Parser::new(&GenericDialect {}).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens);
    let expr = parser.parse_expr().map_err(|e| source.not_parsed(e))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        return Err(
            source.refuse(next.span.start, format!("expected AND, OR or the end, found {}", next.token))
        );
    }
    source.condition(expr)
}

fn limit(what: &str, actual: usize, limit: usize, raise: &str) -> Result<()> {
    if actual <= limit {
        return Ok(());
    }
    Err(Error::Limit { what: what.into(), limit: limit as u64, actual: actual as u64, raise: raise.into() })
}

/// Words that keep their meaning; all others are keys.
fn is_operator(keyword: Keyword) -> bool {
    use Keyword::{AND, BETWEEN, ESCAPE, FALSE, ILIKE, IN, IS, LIKE, NOT, NULL, OR, TRUE};
    matches!(keyword, AND | BETWEEN | ESCAPE | FALSE | ILIKE | IN | IS | LIKE | NOT | NULL | OR | TRUE)
}

/// Constants and punctuation of the language.
fn is_mark(token: &Token) -> bool {
    use Token::{Comma, DoubleEq, Eq, Gt, GtEq, LParen, Lt, LtEq, Minus, Neq, Number, Period, Plus, RParen};
    match token {
        Number(_, false) | Token::SingleQuotedString(_) => true,
        Eq | DoubleEq | Neq | Lt | LtEq | Gt | GtEq => true,
        token => matches!(token, LParen | RParen | Comma | Period | Minus | Plus),
    }
}

/// The expression's text, for messages.
struct Source<'a> {
    text: &'a str,
}

impl Source<'_> {
    fn refuse(&self, at: Location, what: impl std::fmt::Display) -> Error {
        let position = match at.line {
            0 => "at its end".to_string(),
            line => format!("at line {line}, column {}", at.column),
        };
        self.input(&position, what)
    }

    fn input(&self, position: &str, what: impl std::fmt::Display) -> Error {
        let shown: String = self.text.chars().take(SHOWN).collect();
        let cut = if shown.len() < self.text.len() { "…" } else { "" };
        Error::input(format!("where expression, {position}: {what}; in: {shown}{cut}"))
    }

    /// The parser puts the position at the end of its message, and none at the end of the text.
    fn not_parsed(&self, error: ParserError) -> Error {
        let message = match error {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
            ParserError::RecursionLimitExceeded => {
                return Error::Limit {
                    what: "nesting of the where expression".into(),
                    limit: DEPTH as u64,
                    actual: DEPTH as u64 + 1,
                    raise: "use fewer parentheses".into(),
                };
            }
        };
        match message.rsplit_once(" at Line: ") {
            Some((what, at)) => self.input(&format!("at line {}", at.replace("Column:", "column")), what),
            None => self.refuse(Location::new(0, 0), message.replace("found: EOF", "found nothing more")),
        }
    }

    /// Refuses tokens outside of the language and turns keys into quoted identifiers.
    fn admit(&self, tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
        let mut tokens: Vec<_> =
            tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
        let mut chain = Chain::default();
        for at in 0..tokens.len() {
            let next = tokens.get(at + 1).map(|t| t.token.clone());
            let dotted = next == Some(Token::Period)
                || at.checked_sub(1).and_then(|b| tokens.get(b)).is_some_and(|t| t.token == Token::Period);
            let Some(TokenWithSpan { token, span }) = tokens.get_mut(at) else { break };
            let problem = match token {
                Token::Word(word) if word.quote_style.is_none() && !dotted && is_operator(word.keyword) => {
                    None
                }
                Token::Word(word) if next == Some(Token::LParen) => {
                    Some(format!("functions such as {word} are not supported"))
                }
                Token::Word(word) if word.keyword == Keyword::SELECT => {
                    Some(format!("subqueries are not supported; a key {word} needs double quotes"))
                }
                Token::Word(word) => {
                    (word.quote_style, word.keyword) = (Some('"'), Keyword::NoKeyword);
                    None
                }
                _ => (!is_mark(token)).then(|| format!("{token} is not supported")),
            };
            if let Some(what) = problem {
                return Err(self.refuse(span.start, what));
            }
            chain.count(token);
        }
        limit("operators in the where expression", chain.longest, CHAIN, "use IN for long lists")?;
        Ok(tokens)
    }

    /// A node that is true or false.
    fn condition(&self, expr: Expr) -> Result<Node> {
        match expr {
            Expr::Nested(inner) => self.condition(*inner),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(not(self.condition(*expr)?)),
            Expr::BinaryOp { op: BinaryOperator::And, .. } => {
                Ok(Node::All(self.chain(expr, &BinaryOperator::And)?))
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } => {
                Ok(Node::Any(self.chain(expr, &BinaryOperator::Or)?))
            }
            Expr::BinaryOp { left, op, right } => self.comparison(*left, op, *right),
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.leaf(expr, false, Test::Holds),
            Expr::Value(ValueWithSpan { value: Value::Boolean(value), .. }) => Ok(Node::Constant(value)),
            Expr::IsNull(inner) => Ok(Node::IsNull { key: self.key(*inner)? }),
            Expr::IsNotNull(inner) => Ok(not(Node::IsNull { key: self.key(*inner)? })),
            Expr::InList { expr, list, negated } => {
                let literals: Result<Vec<_>> = list.into_iter().map(|e| self.literal(e)).collect();
                self.leaf(*expr, negated, Test::In(List::new(literals?)))
            }
            Expr::Between { expr, negated, low, high } => {
                self.leaf(*expr, negated, Test::Between(self.literal(*low)?, self.literal(*high)?))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                self.leaf(*expr, negated, self.pattern(*pattern, escape_char, false)?)
            }
            Expr::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.leaf(*expr, negated, self.pattern(*pattern, escape_char, true)?)
            }
            other => Err(self.refuse(start(&other), "expected a condition, such as year >= 2020")),
        }
    }

    /// The parts of `a AND b AND c`. The parser nests chains to the left, as deep as they are long.
    fn chain(&self, mut expr: Expr, chained: &BinaryOperator) -> Result<Vec<Node>> {
        let mut reversed = Vec::new();
        loop {
            match expr {
                Expr::BinaryOp { left, op, right } if op == *chained => {
                    reversed.push(*right);
                    expr = *left;
                }
                first => {
                    reversed.push(first);
                    break;
                }
            }
        }
        reversed.into_iter().rev().map(|part| self.condition(part)).collect()
    }

    fn comparison(&self, left: Expr, op: BinaryOperator, right: Expr) -> Result<Node> {
        let (op, negated) = match op {
            BinaryOperator::Eq => (Op::Equal, false),
            BinaryOperator::NotEq => (Op::Equal, true),
            BinaryOperator::Lt => (Op::Less, false),
            BinaryOperator::LtEq => (Op::LessEqual, false),
            BinaryOperator::Gt => (Op::Greater, false),
            BinaryOperator::GtEq => (Op::GreaterEqual, false),
            other => return Err(self.refuse(start(&right), format!("the operator {other} is not supported"))),
        };
        match (is_key(&left), is_key(&right)) {
            (true, true) => {
                let what = "two keys cannot be compared; a string stands in single quotes";
                Err(self.refuse(start(&right), what))
            }
            (false, true) => self.leaf(right, negated, Test::Compare(op.flipped(), self.literal(left)?)),
            _ => self.leaf(left, negated, Test::Compare(op, self.literal(right)?)),
        }
    }

    fn leaf(&self, key: Expr, negated: bool, test: Test) -> Result<Node> {
        let leaf = Node::Leaf { key: self.key(key)?, test };
        Ok(if negated { not(leaf) } else { leaf })
    }

    fn key(&self, expr: Expr) -> Result<String> {
        let at = start(&expr);
        let key = match unwrapped(expr) {
            // Keys were quoted on admission; the parser takes an operator for a name where it expects one.
            Expr::Identifier(Ident { value, quote_style: None, .. }) => {
                return Err(self.refuse(at, format!("expected a key or a condition, found {value}")));
            }
            Expr::Identifier(ident) => ident.value,
            Expr::CompoundIdentifier(parts) => {
                parts.into_iter().map(|Ident { value, .. }| value).collect::<Vec<_>>().join(".")
            }
            _ => return Err(self.refuse(at, "expected a key, such as lang or author.name")),
        };
        limit(
            "a key of the where expression, in bytes,",
            key.len(),
            KEY_BYTES,
            "no document has such a key",
        )?;
        Ok(key)
    }

    fn literal(&self, expr: Expr) -> Result<Literal> {
        let at = start(&expr);
        let (sign, expr) = match unwrapped(expr) {
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => ("-", unwrapped(*expr)),
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => ("+", unwrapped(*expr)),
            other => ("", other),
        };
        let value = match expr {
            Expr::Value(ValueWithSpan { value, .. }) => value,
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                return Err(
                    self.refuse(at, "expected a constant, found a key; a string stands in single quotes")
                );
            }
            _ => return Err(self.refuse(at, "expected a constant: 'text', a number, TRUE or FALSE")),
        };
        match (value, sign) {
            (Value::Number(digits, false), _) => self.number(at, &format!("{sign}{digits}")),
            (Value::SingleQuotedString(text), "") => Ok(Literal::Text(text)),
            (Value::Boolean(value), "") => Ok(Literal::Bool(value)),
            (Value::Null, "") => {
                Err(self.refuse(at, "nothing compares with NULL; use IS NULL or IS NOT NULL"))
            }
            _ => Err(self.refuse(at, "expected a constant: 'text', a number, TRUE or FALSE")),
        }
    }

    /// An integer of 64 bits, else the nearest f64, as metadata is stored.
    fn number(&self, at: Location, digits: &str) -> Result<Literal> {
        if let Ok(int) = digits.parse() {
            return Ok(Literal::Int(int));
        }
        digits.parse().map(Literal::Float).map_err(|_| self.refuse(at, format!("{digits} is not a number")))
    }

    fn pattern(&self, pattern: Expr, escape: Option<Box<Expr>>, fold_case: bool) -> Result<Test> {
        let at = start(&pattern);
        let Literal::Text(text) = self.literal(pattern)? else {
            return Err(self.refuse(at, "LIKE needs a pattern in single quotes"));
        };
        let escape = match escape.map(|e| self.literal(*e)).transpose()? {
            None => None,
            Some(Literal::Text(text)) if text.chars().count() == 1 => text.chars().next(),
            Some(_) => return Err(self.refuse(at, "ESCAPE needs one character in single quotes")),
        };
        match Pattern::new(&text, escape, fold_case) {
            Some(pattern) => Ok(Test::Like(pattern)),
            None => Err(self.refuse(at, "the pattern ends in its escape character")),
        }
    }
}

fn not(node: Node) -> Node {
    Node::Not(Box::new(node))
}

fn unwrapped(mut expr: Expr) -> Expr {
    while let Expr::Nested(inner) = expr {
        expr = *inner;
    }
    expr
}

fn is_key(mut expr: &Expr) -> bool {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn start(expr: &Expr) -> Location {
    expr.span().start
}

/// An upper bound on the depth of the tree that tokens can make: operators add up, but those on two sides of a comma
/// do not.
#[derive(Default)]
struct Chain {
    /// Operators above the present point of the text.
    now: usize,
    /// The value of `now` at the last opening parenthesis.
    base: usize,
    /// The largest `now` since then.
    most: usize,
    /// `base` and `most` of the open parentheses further out.
    outer: Vec<(usize, usize)>,
    /// The largest `now` of all.
    longest: usize,
}

impl Chain {
    fn count(&mut self, token: &Token) {
        match token {
            Token::LParen => {
                self.outer.push((self.base, self.most));
                (self.base, self.most) = (self.now, self.now);
            }
            Token::RParen => {
                self.now = self.most + 1;
                (self.base, self.most) = self.outer.pop().unwrap_or_default();
            }
            Token::Comma => self.now = self.base,
            Token::Word(word) if word.quote_style.is_some() => (),
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => (),
            _ => self.now += 1,
        }
        self.most = self.most.max(self.now);
        self.longest = self.longest.max(self.now);
    }
}
