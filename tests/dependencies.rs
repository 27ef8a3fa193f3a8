//! What the README says of dependencies: each has its reason, and none is of a version with a weakness named there.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Names in the sections of dependencies of `Cargo.toml`.
fn direct() -> BTreeSet<String> {
    let (manifest, mut inside, mut names) = (read("Cargo.toml"), false, BTreeSet::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = ["[dependencies]", "[dev-dependencies]"].contains(&line);
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| inside && !line.starts_with('#')) {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The section of the README.
fn section() -> String {
    let readme = read("README.md");
    let start = readme.find("## Dependencies").unwrap();
    let end = readme[start + 3..].find("\n## ").unwrap();
    readme[start..start + 3 + end].to_owned()
}

#[test]
fn each_dependency_has_its_reason_and_each_reason_its_dependency() {
    let section = section();
    let table = section.split("| weakness |").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| crate"));
    let told: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    assert!(told.len() > 25, "{told:?}");
    assert_eq!(told, direct());
}

/// Numbers of a version.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
fn no_locked_version_has_a_weakness_of_the_table() {
    let lock = read("Cargo.lock");
    let versions = |name: &str| -> Vec<Vec<u32>> {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let found =
            lock.match_indices(&entry).map(|(at, _)| lock[at + entry.len()..].split('"').next().unwrap());
        found.map(version).collect()
    };
    let section = section();
    let mut compared = 0;
    for row in section.split("| weakness |").nth(1).unwrap().lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].split(',').next().unwrap();
        if let Some(least) = cells[3].split(" or newer").next().filter(|_| cells[3].contains(" or newer")) {
            let found = versions(name);
            assert!(!found.is_empty(), "{name}");
            assert!(found.iter().all(|found| *found >= version(least)), "{name} {found:?} is before {least}");
            compared += 1;
        } else if cells[3].starts_with("not used") {
            assert!(versions(name).is_empty(), "{name} is used");
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared}: does this test still read the table?");
}
