//! Filter expressions: parsed, and evaluated on one document.
#![no_main]

use embdb::db::filter::Filter;
use embdb::types::Meta;

libfuzzer_sys::fuzz_target!(|data: &str| {
    if let Ok(filter) = Filter::parse(data) {
        let meta: Meta =
            serde_json::from_str(r#"{"a": 1, "b": {"c": ["x", 2.5, null]}, "d": true}"#).expect("valid");
        filter.matches("id", Some("title"), &meta);
        filter.matches("", None, &Meta::new());
        assert!(filter.keys().is_sorted());
    }
});
