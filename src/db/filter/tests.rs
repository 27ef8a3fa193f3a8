//! The language, its errors, and the property that both ways of evaluation agree.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::columns::Texts;
use super::*;
use crate::format::attrs::{AttrsBuilder, AttrsView, ColumnView};

type Row = (String, Option<String>, Meta);

fn row(id: &str, title: Option<&str>, meta: Value) -> Row {
    let Value::Object(meta) = meta else { panic!("not an object") };
    (id.into(), title.map(Into::into), meta)
}

/// Columns of which nobody knows that they are in order: the slow twin.
struct Unordered<'a>(&'a dyn Columns);

impl Columns for Unordered<'_> {
    fn docs(&self) -> u32 {
        self.0.docs()
    }

    fn has_key(&self, key: &str) -> Result<bool> {
        self.0.has_key(key)
    }

    fn column(&self, _: &str) -> Result<Option<ColumnView<'_>>> {
        Ok(None)
    }

    fn for_each(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) -> Result<()> {
        self.0.for_each(key, f)
    }
}

/// The ids that match, found in three ways.
fn found(filter: &Filter, rows: &[Row]) -> Vec<String> {
    let mut builder = AttrsBuilder::default();
    rows.iter().enumerate().for_each(|(i, (_, _, meta))| builder.push(i as u32, meta));
    let columns = builder.finish().unwrap();
    let source = SegmentColumns {
        attrs: Some(AttrsView::new(&columns)),
        docs: rows.len() as u32,
        ids: &|f| {
            rows.iter().enumerate().for_each(|(i, row)| f(i as u32, &row.0));
            Ok(())
        },
        titles: &|f| {
            let titled = rows.iter().enumerate().filter_map(|(i, row)| Some((i as u32, row.1.as_deref()?)));
            titled.for_each(|(i, title)| f(i, title));
            Ok(())
        },
    };
    let mask = filter.mask(&source).unwrap();
    assert_eq!(mask, filter.mask(&Unordered(&source)).unwrap(), "{}", filter.expression());
    let one_by_one: Vec<u32> = rows
        .iter()
        .enumerate()
        .filter(|(_, (id, title, meta))| filter.matches(id, title.as_deref(), meta))
        .map(|(i, _)| i as u32)
        .collect();
    assert_eq!(mask.iter().collect::<Vec<_>>(), one_by_one, "{}", filter.expression());
    mask.iter().map(|i| rows[i as usize].0.clone()).collect()
}

fn books() -> Vec<Row> {
    vec![
        row(
            "a",
            None,
            json!({"lang": "en", "year": 2020, "tag": ["x", "y"], "archived": false, "price": 4.5}),
        ),
        row(
            "b",
            Some("How now"),
            json!({"lang": "de", "year": 2019, "tag": ["y"], "archived": true, "price": 9}),
        ),
        row("c", Some("Why"), json!({"lang": null, "title": "How to", "date": "2021-03-01", "tag": "z"})),
        row("d", None, json!({"author": {"name": "O'Neil"}, "year": "2020", "title": [], "order": 1})),
        row("e", Some("How"), json!({})),
    ]
}

#[test]
fn expressions_select_the_documents_they_say() {
    let cases = [
        ("lang = 'en'", "a"),
        ("lang == 'en'", "a"),
        ("'en' = lang", "a"),
        ("lang != 'en'", "b"),
        ("lang <> 'en' OR id = 'e'", "be"),
        ("NOT lang = 'en'", "b"),
        ("lang IS NULL", "cde"),
        ("lang IS NOT NULL", "ab"),
        ("year >= 2020", "a"),
        ("2020 > year", "b"),
        ("year = 2020.0", "a"),
        ("year = '2020'", "d"),
        ("year != 2020", "b"),
        ("year < 2020.5 AND NOT archived", "a"),
        ("archived", "b"),
        ("NOT archived", "a"),
        ("archived = TRUE", "b"),
        ("archived < true", "a"),
        ("tag = 'y'", "ab"),
        ("tag != 'y'", "c"),
        ("tag IN ('x', 'z')", "ac"),
        ("tag NOT IN ('x', 'z')", "b"),
        ("tag IN (1)", ""),
        ("tag NOT IN (1)", ""),
        ("price BETWEEN 4.5 AND 9", "ab"),
        ("price NOT BETWEEN -1 AND +4.5", "b"),
        ("title LIKE 'How%'", "bce"),
        ("title LIKE 'how%'", ""),
        ("title ILIKE 'how%' AND title NOT LIKE '% %'", "e"),
        ("title IS NULL", "ad"),
        ("author.name = 'O''Neil'", "d"),
        ("\"author.name\" LIKE 'O!''%' ESCAPE '!'", "d"),
        ("\"author\".\"name\" ILIKE 'o_N%'", "d"),
        ("author IS NULL AND id > 'b'", "cde"),
        ("date >= '2021'", "c"),
        ("order = 1", "d"),
        ("id IN ('a', 'e', 'nobody')", "ae"),
        ("(((id) = ('a')) OR (NOT (id < 'e')))", "ae"),
        ("lang = 'en' OR lang = 'de' AND year = 2019", "ab"),
        ("TRUE", "abcde"),
        ("FALSE OR NOT TRUE", ""),
        ("missing = 1 OR NOT missing = 1", ""),
        ("missing = 1 OR TRUE", "abcde"),
        ("NOT (missing = 1 AND FALSE)", "abcde"),
        ("lang -- a comment\n = 'en'", "a"),
    ];
    for (expression, ids) in cases {
        let filter = Filter::parse(expression).unwrap();
        assert_eq!(found(&filter, &books()).concat(), ids, "{expression}");
    }
}

#[test]
fn many_values_are_cut_where_the_answer_changes() {
    let value = |n: i64| match n % 4 {
        0 => json!({"v": n % 90 - 40}),
        1 => json!({"v": (n % 90 - 40) as f64 + 0.5}),
        2 => json!({"v": format!("s{:02}", n % 90)}),
        _ => json!({"v": [n % 90 - 40, format!("s{:02}", n % 50), n % 3 == 0]}),
    };
    let rows: Vec<Row> = (0..400).map(|n| row(&n.to_string(), None, value(n))).collect();
    for expression in [
        "v < 10",
        "NOT v < 10",
        "v <= -3.5",
        "v >= 9.25 AND v < 100",
        "v = 12",
        "v != 12",
        "v > 's33'",
        "v BETWEEN -5 AND 's20'",
        "v NOT BETWEEN 's10' AND 's12'",
        "v IN (3, 4.5, 's07', TRUE, 1000)",
        "v NOT IN (3, 's07')",
        "v = 1000 OR v < -1000",
        "v LIKE 's_7'",
        "v",
        "v = 36 AND id != '76'",
    ] {
        let filter = Filter::parse(expression).unwrap();
        let some = found(&filter, &rows).len();
        assert!(some < rows.len(), "{expression}: {some}");
    }
}

#[test]
fn words_of_sql_are_keys_without_quotes() {
    let words = [
        "date",
        "year",
        "title",
        "type",
        "text",
        "order",
        "group",
        "from",
        "end",
        "case",
        "interval",
        "user",
        "array",
        "timestamp",
        "current_date",
        "position",
        "table",
        "values",
        "desc",
        "any",
        "all",
        "cast",
        "left",
        "x",
        "über",
    ];
    for word in words {
        for expression in
            [format!("{word} = 'v'"), format!("NOT {word}"), format!("{word} IN ('v') AND {word} IS NULL")]
        {
            assert_eq!(Filter::parse(&expression).unwrap().keys(), [word], "{expression}");
        }
    }
    for (expression, key) in
        [("\"in\" = 1", "in"), ("a.null = 1", "a.null"), ("in.b.not IS NULL", "in.b.not")]
    {
        assert_eq!(Filter::parse(expression).unwrap().keys(), [key]);
    }
}

#[test]
fn keys_are_listed_once() {
    let filter = Filter::parse("b = 1 AND (a.x = 2 OR NOT b) AND id = '7' AND c IS NULL").unwrap();
    assert_eq!(filter.keys(), ["a.x", "b", "c", "id"]);
    let source = SegmentColumns { attrs: None, docs: 3, ids: &|_| Ok(()), titles: &|_| Ok(()) };
    let known: Vec<_> = filter.keys().into_iter().filter(|key| source.has_key(key).unwrap()).collect();
    assert_eq!(known, ["id"]);
}

#[test]
fn documents_beyond_the_last_are_ignored() {
    let ids: Texts<'_> = &|f| {
        (0..4).for_each(|d| f(d, "x"));
        Ok(())
    };
    let source = SegmentColumns { attrs: None, docs: 2, ids, titles: &|_| Ok(()) };
    assert_eq!(Filter::parse("id = 'x'").unwrap().mask(&source).unwrap().len(), 2);
    assert_eq!(Filter::parse("NOT id = 'y'").unwrap().mask(&source).unwrap().len(), 2);
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    let cases = [
        ("", "at its end: Expected: an expression, found nothing more"),
        ("lang = ", "at its end"),
        ("lang = 'en", "line 1, column 8: Unterminated string literal"),
        ("lang = 'en' AND\n  year >> 3", "line 2, column 8: >> is not supported"),
        ("lang = 'en' year", "line 1, column 13: expected AND, OR or the end, found \"year\""),
        ("lang = 'en')", "line 1, column 12"),
        ("(lang = 'en'", "at its end"),
        ("lower(lang) = 'en'", "line 1, column 1: functions such as lower are not supported"),
        ("\"lower\"(lang) = 'en'", "functions such as \"lower\" are not supported"),
        ("id IN (SELECT id FROM x)", "line 1, column 8: subqueries are not supported"),
        ("EXISTS (SELECT 1)", "functions such as EXISTS are not supported"),
        ("select = 1", "a key select needs double quotes"),
        ("year + 1 = 2", "line 1, column 1: expected a key"),
        ("year + 1", "the operator + is not supported"),
        ("year = 1 + 1", "expected a constant"),
        ("year = - - 1", "expected a constant"),
        ("lang = \"en\"", "line 1, column 8: two keys cannot be compared; a string stands in single quotes"),
        ("lang IN (\"en\")", "found a key; a string stands in single quotes"),
        ("lang IN ()", "line 1, column 10"),
        ("lang = NULL", "use IS NULL"),
        ("lang = -'x'", "expected a constant"),
        ("1 = 1", "expected a key"),
        ("'lang'", "expected a condition"),
        ("5", "expected a condition"),
        ("NULL", "expected a condition"),
        ("lang IS 5", "line 1, column 9"),
        ("lang IS TRUE", "expected a condition"),
        ("lang LIKE 5", "LIKE needs a pattern"),
        ("lang LIKE 'a!' ESCAPE '!'", "ends in its escape character"),
        ("lang LIKE 'a' ESCAPE '!!'", "ESCAPE needs one character"),
        ("lang = X'00'", "X'00' is not supported"),
        ("lang = $1", "$1 is not supported"),
        ("lang = 'a'; DROP TABLE x", "; is not supported"),
        ("a::int = 1", ":: is not supported"),
        ("a[1] = 1", "[ is not supported"),
        ("(a, b) IN (1, 2)", "expected a key"),
        ("a = 1 COLLATE b", "expected AND, OR or the end"),
        ("a AND AND b", "column 11: expected AND, OR or the end"),
        ("a OR and", "column 6: expected a key or a condition, found and"),
        ("like = 1", "column 1: expected a key or a condition, found like"),
        ("a.*", "* is not supported"),
    ];
    for (expression, message) in cases {
        let error = Filter::parse(expression).expect_err(expression);
        assert_eq!(error.exit_code(), 1, "{expression}");
        assert!(error.to_string().contains(message), "{expression}: {error}");
        assert!(error.to_string().contains(expression), "{error}");
    }
}

#[test]
fn limits_hold() {
    let code = |expression: String| Filter::parse(&expression).map_err(|e| e.exit_code()).err();
    assert_eq!(code(format!("a = '{}'", "x".repeat(70_000))), Some(5));
    assert_eq!(code(format!("{} = 1", "k".repeat(2000))), Some(5));
    assert_eq!(code(format!("{}a{}", "(".repeat(50), ")".repeat(50))), None);
    let list = vec!["-1, 'a'"; 5000].join(", ");
    assert_eq!(code(format!("a IN ({list})")), None);
    let chain = vec!["a = 1"; 1000].join(" OR ");
    assert_eq!(code(chain.clone()), None);
    assert_eq!(code(format!("{chain} OR {chain}")), Some(5));
}

/// None of these may overflow the stack of a test thread (2 MiB) or take long.
#[test]
fn hostile_expressions_end_in_an_error() {
    let repeated = |unit: &str| unit.repeat((60 << 10) / unit.len());
    for unit in [
        "(",
        "NOT ",
        "a+",
        "a OR ",
        "- ",
        "a IS NULL IS NULL ",
        "((a) OR ",
        "a IN (",
        "a BETWEEN ",
        "a AND NOT (",
        "a.",
        "a LIKE ",
        "case when ",
        "a = (-",
        ", (",
        ")",
        "NOT (",
    ] {
        assert!(Filter::parse(&repeated(unit)).is_err(), "{unit}");
        assert!(Filter::parse(&(repeated(unit) + "a")).is_err() || unit == "a.", "{unit}");
        assert!(Filter::parse(&(unit.repeat(100) + "1")).is_err(), "{unit}");
    }
    for deep in [
        format!("a{}", "+a".repeat(2000)),
        format!("a{}", " IS NULL".repeat(1000)),
        format!("a{}", " AND".repeat(2000)),
        format!("a{}", "+a".repeat(2040)) + " b",
    ] {
        assert!(Filter::parse(&deep).is_err());
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        Just(json!(i64::MAX)),
        Just(json!(u64::MAX)),
        (-4i32..5).prop_map(|n| json!(f64::from(n) / 2.0)),
        "[abA%_é]{0,3}".prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        let map = prop::collection::btree_map(key_part(), inner.clone(), 0..3);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            map.prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
        ]
    })
}

fn key_part() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a.b", "title", "id"])
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a.b", "b.a", "\"a\".\"a.b\"", "title", "id", "title.a", "c"])
}

fn literal() -> impl Strategy<Value = String> {
    scalar().prop_filter_map("a constant", |value| match value {
        Value::Null => None,
        Value::String(text) => Some(format!("'{text}'")),
        other => Some(other.to_string()),
    })
}

fn expression() -> impl Strategy<Value = String> {
    let op = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let not = prop::sample::select(vec!["", "NOT "]);
    let leaf = prop_oneof![
        (key(), op, literal()).prop_map(|(k, op, v)| format!("{k} {op} {v}")),
        (key(), not.clone(), prop::collection::vec(literal(), 1..4))
            .prop_map(|(k, not, list)| format!("{k} {not}IN ({})", list.join(", "))),
        (key(), not.clone(), literal(), literal())
            .prop_map(|(k, not, a, b)| format!("{k} {not}BETWEEN {a} AND {b}")),
        (key(), not.clone(), prop::sample::select(vec!["LIKE", "ILIKE"]), "[abA%_é]{0,4}")
            .prop_map(|(k, not, like, pattern)| format!("{k} {not}{like} '{pattern}'")),
        (key(), not.clone()).prop_map(|(k, not)| format!("{k} IS {not}NULL")),
        (key(), not).prop_map(|(k, not)| format!("{not}{k}")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            inner.prop_map(|part| format!("NOT ({part})")),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let meta = prop::collection::btree_map(key_part(), tree(), 0..4)
        .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_string(), v)).collect::<Meta>());
    prop::collection::vec(("[abc]", prop::option::of("[abA]{0,2}"), meta), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_mask_is_what_matches_one_by_one(rows in rows(), expression in expression()) {
        found(&Filter::parse(&expression).unwrap(), &rows);
    }

    #[test]
    fn any_text_parses_or_is_refused(text in "[a-z0-9'\"().,=<>! %_-]{0,60}|(AND|OR|NOT|IN|LIKE|IS|NULL|BETWEEN|a|b|\\(|\\)|,|=|-|1|'x'| ){0,24}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(matches!(error.exit_code(), 1 | 5));
        }
    }

    #[test]
    fn a_negation_matches_what_is_known_and_not_true(rows in rows(), expression in expression()) {
        let parse = |text: String| Filter::parse(&text).unwrap();
        let yes = found(&parse(expression.clone()), &rows).len();
        let no = found(&parse(format!("NOT ({expression})")), &rows).len();
        let both = found(&parse(format!("({expression}) AND NOT ({expression})")), &rows).len();
        prop_assert_eq!(both, 0);
        prop_assert!(yes + no <= rows.len());
    }
}
