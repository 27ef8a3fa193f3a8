//! The page of promises names tests and scripts: they exist.

#![allow(clippy::unwrap_used)]

use std::path::Path;

/// What stands between backticks in the tables.
fn named(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_and_script_of_the_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("PROMISES.md")).unwrap();
    let (mut tests, mut scripts) = (0, 0);
    for name in named(&page) {
        if let Some((file, function)) = name.split_once("::") {
            let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let attribute = "#[test]";
            let found = source.match_indices(&format!("fn {function}(")).any(|(at, _)| {
                let before = source[..at].trim_end();
                before.lines().rev().take(4).any(|line| line.trim() == attribute)
            });
            assert!(found, "{file} has no test {function}");
            tests += 1;
        } else if name.ends_with(".py") {
            assert!(root.join("tools/black-box").join(name).exists(), "there is no {name}");
            scripts += 1;
        }
    }
    assert!(
        tests > 25 && scripts > 10,
        "{tests} tests, {scripts} scripts: does this test still read the page?"
    );
}

#[test]
fn every_script_is_run_and_described() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/black-box");
    let [run, readme] =
        ["run.sh", "README.md"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".py") && name != "common.py" {
            assert!(run.contains(&format!("run {name}")), "run.sh does not run {name}");
            assert!(readme.contains(&format!("`{name}`")), "README.md does not tell of {name}");
        }
    }
}
