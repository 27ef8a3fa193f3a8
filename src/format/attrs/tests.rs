//! Columns come back as they were given; damaged ones end in an error or in other documents.

use serde_json::json;

use super::*;

fn meta(value: Json) -> Meta {
    let Json::Object(map) = value else { panic!("not an object") };
    map
}

fn sample() -> Vec<Meta> {
    vec![
        meta(json!({"lang": "en", "year": 2020, "tags": ["a", "b", null, 3], "score": 0.5, "old": false})),
        meta(json!({"lang": "de", "author": {"name": "Ada Lovelace, Countess", "born": 1815}, "year": -3})),
        meta(json!({"lang": "en", "tags": ["a", "a"], "rows": [{"n": 1}, {"n": [2, 3]}], "big": u64::MAX})),
        meta(json!({"year": 2019.5})),
    ]
}

fn columns(metas: &[Meta]) -> Columns {
    let mut builder = AttrsBuilder::default();
    metas.iter().enumerate().for_each(|(n, meta)| builder.push(n as u32, meta));
    builder.finish().unwrap()
}

/// The entries of a column in order of values.
fn entries<'a>(view: &AttrsView<'a>, key: &str) -> Vec<(u32, Scalar<'a>)> {
    let mut found = Vec::new();
    if let Some(column) = view.column(key).unwrap() {
        column.for_each(&mut |document, value| found.push((document, value))).unwrap();
    }
    found
}

#[test]
fn columns_come_back_flattened_and_in_order_of_values() {
    let columns = columns(&sample());
    let view = AttrsView::new(&columns);
    view.check(4).unwrap();
    let keys = ["author.born", "author.name", "big", "lang", "old", "rows.n", "score", "tags", "year"];
    assert_eq!(view.keys().unwrap(), keys);
    let text = Scalar::Text;
    assert_eq!(entries(&view, "lang"), [(1, text("de")), (0, text("en")), (2, text("en"))]);
    let tags = [(0, Scalar::Null), (0, Scalar::Int(3)), (0, text("a")), (2, text("a")), (0, text("b"))];
    assert_eq!(entries(&view, "tags"), tags);
    assert_eq!(entries(&view, "rows.n"), [(2, Scalar::Int(1)), (2, Scalar::Int(2)), (2, Scalar::Int(3))]);
    assert_eq!(entries(&view, "big"), [(2, Scalar::Float(u64::MAX as f64))]);
    assert_eq!(
        entries(&view, "year"),
        [(1, Scalar::Int(-3)), (0, Scalar::Int(2020)), (3, Scalar::Float(2019.5))]
    );
    assert!(view.column("author").unwrap().is_none());
}

#[test]
fn ranges_of_values_are_ranges_of_documents() {
    let metas: Vec<Meta> = (0..500).map(|n| meta(json!({"n": n * 7 % 50 - 20}))).collect();
    let columns = columns(&metas);
    let column = AttrsView::new(&columns).column("n").unwrap().unwrap();
    let [_, _, ints, _, _] = column.kinds();
    assert_eq!(ints.len(), 50);
    for bound in -25..35 {
        let order = |value: Scalar<'_>| match value {
            Scalar::Int(value) => value.cmp(&bound),
            other => panic!("{other:?}"),
        };
        let at = column.lower_bound(ints.clone(), order).unwrap();
        let mut below = column.documents(ints.start..at).unwrap().to_vec();
        below.sort_unstable();
        let expected: Vec<u32> = (0..500).filter(|&n| i64::from(n) * 7 % 50 - 20 < bound).collect();
        assert_eq!(below, expected);
    }
}

#[test]
fn an_empty_segment_has_no_columns() {
    let columns = columns(&[]);
    assert!(AttrsView::new(&columns).is_empty());
    AttrsView::new(&columns).check(0).unwrap();
}

#[test]
fn descent_agrees_with_the_columns() {
    let metas = sample();
    let columns = columns(&metas);
    let view = AttrsView::new(&columns);
    for key in view.keys().unwrap().into_iter().chain(["author", "", ".", "lang.", "rows"]) {
        let mut found = Vec::new();
        for (document, meta) in metas.iter().enumerate() {
            scalars_of(meta, key, &mut |scalar| found.push((document as u32, scalar)));
        }
        let stored = entries(&view, key);
        assert!(stored.iter().all(|entry| found.contains(entry)), "{key}");
        assert!(found.iter().all(|entry| stored.contains(entry)), "{key}");
    }
}

#[test]
fn deep_or_long_keyed_metadata_is_refused_and_skipped() {
    let nested = |levels: usize| {
        let mut value = json!(1);
        for _ in 0..levels {
            value = json!([value]);
        }
        meta(json!({"x": value, "y": 1}))
    };
    assert!(check_meta(&nested(META_DEPTH)).is_ok());
    let deep = nested(META_DEPTH + 1);
    assert_eq!(check_meta(&deep).unwrap_err().exit_code(), 5);
    let long = meta(json!({ "k".repeat(KEY_BYTES): {"y": 1}, "y": 1 }));
    assert!(check_meta(&long).unwrap_err().to_string().contains("1026, over the limit of 1024"));
    let mut count = 0;
    scalars_of(&deep, &"y".repeat(KEY_BYTES + 1), &mut |_| count += 1);
    // Keys that begin as the wanted one does, but are others.
    let similar = meta(json!({"a": {"bc": 1, "b": {"c": 2, "cd": 3}}, "ab": 4, "a.b": {"d": 5}, "y": null}));
    ["a.bcd", "abc", "a.b.c.d", "a.b"].iter().for_each(|key| scalars_of(&similar, key, &mut |_| count += 1));
    assert_eq!(count, 0);
    let objects = (0..=META_DEPTH).fold(json!({"x": 1}), |inner, _| json!({ "x": inner }));
    let path = vec!["x"; META_DEPTH + 2].join(".");
    scalars_of(&meta(objects), &path, &mut |_| count += 1);
    assert_eq!(count, 0, "deeper than any column");
    for meta in [&deep, &long] {
        let columns = columns(std::slice::from_ref(meta));
        let view = AttrsView::new(&columns);
        assert_eq!(view.keys().unwrap(), ["y"]);
        assert_eq!(entries(&view, "y"), [(0, Scalar::Int(1))]);
        let mut count = 0;
        scalars_of(meta, "x", &mut |_| count += 1);
        assert_eq!(count, 0);
    }
}

#[test]
fn broken_invariants_are_corrupt() {
    type Damage = fn(&mut Columns);
    let breaks: [(Damage, &str); 8] = [
        (|c| c.keys[0] = b'z', "keys are not in order"),
        (|c| c.columns[3].ints = 0, "kinds are not in order"),
        (|c| c.columns[1].nulls += 1, "values between the columns"),
        (|c| c.values.push(1), "values after the last column"),
        (|c| c.docs[0] = 4, "a document that the segment does not have"),
        (|c| c.texts[0] = 0xff, "not UTF-8"),
        (|c| c.starts[1] = 0, "documents are not in order"),
        (|c| c.values[c.columns[8].ints as usize] = 5000, "values are not in order"),
    ];
    for (damage, what) in breaks {
        let mut damaged = columns(&sample());
        damage(&mut damaged);
        let error = AttrsView::new(&damaged).check(4).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}

#[test]
fn a_section_over_the_limit_is_refused() {
    let texts: Vec<String> = (0..9).map(|n| n.to_string().repeat(SECTION_BYTES / 8)).collect();
    let mut builder = AttrsBuilder::default();
    builder.push(0, &meta(json!({ "k": texts })));
    assert_eq!(builder.finish().unwrap_err().exit_code(), 5);
}

/// Whatever the bytes, each read either fails or gives something.
#[test]
fn damaged_bytes_never_panic() {
    let good = columns(&sample());
    let read = |columns: &Columns| {
        let view = AttrsView::new(columns);
        for key in ["author.name", "lang", "tags", "year", "big"] {
            if let Ok(Some(column)) = view.column(key) {
                let _ = column.for_each(&mut |_, _| ());
                let _ = column.lower_bound(0..100, |_| std::cmp::Ordering::Less);
                let _ = column.documents(0..usize::MAX);
            }
        }
        view.keys().is_ok() && view.check(4).is_ok()
    };
    assert!(read(&good));
    let words = |columns: &mut Columns, at: usize, damage: u32| {
        let parts: [&mut [u32]; 5] = [
            bytemuck::cast_slice_mut(&mut columns.columns),
            bytemuck::cast_slice_mut(&mut columns.values),
            &mut columns.starts,
            &mut columns.docs,
            &mut columns.text_offsets,
        ];
        let word = parts.into_iter().flatten().nth(at);
        word.map(|word| *word = damage).is_some()
    };
    for damage in [0, 1, 5, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let mut damaged = good.clone();
        for at in 0.. {
            if !words(&mut damaged, at, damage) {
                break;
            }
            read(&damaged);
            damaged = good.clone();
        }
    }
    for cut in 0..good.docs.len() {
        let damaged = Columns { docs: good.docs[..cut].to_vec(), ..good.clone() };
        assert!(!read(&damaged));
    }
}
