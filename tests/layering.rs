//! A module uses only what stands below it:
//!
//! `error, types, options, panics, sync ← kernel | mmap | format ← storage | index | text | encoder ← trainer ← db ← ffi | bin`
//!
//! and `unsafe` stands only where it is argued. Both are read from the sources, their tests included.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. Modules of one layer know nothing of one another, but for those of the lowest and [`SIDEWAYS`].
const LAYERS: [&[&str]; 6] = [
    &["error", "types", "options", "panics", "sync"],
    &["kernel", "mmap", "format"],
    &["storage", "index", "text", "encoder"],
    &["trainer"],
    &["db"],
    &["ffi", "bin"],
];
/// Who may use a module of its own layer: the encoder gives the chunker its tokens.
const SIDEWAYS: [(&str, &str); 1] = [("encoder", "text")];
/// Files (or directories) that may hold `unsafe`.
const UNSAFE: [&str; 8] = [
    "src/kernel/product.rs",
    "src/kernel/x86.rs",
    "src/kernel/x86/",
    "src/encoder/fast/kernel/avx2.rs",
    "src/encoder/fast/kernel/avx512.rs",
    "src/mmap.rs",
    "src/mmap/",
    "src/ffi/",
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The names that the crate's root re-exports, each with the module that it comes from.
fn exports(root: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for (at, start) in root.match_indices("pub use ") {
        let (module, rest) = root[at + start.len()..].split_once("::").unwrap();
        let end = rest.find(';').unwrap();
        for name in rest[..end].split(['{', '}', ',', ':']).map(str::trim).filter(|name| !name.is_empty()) {
            found.insert(name.to_owned(), module.to_owned());
        }
    }
    found
}

/// Why a module must not use another.
fn objection(from: &str, to: &str) -> Option<String> {
    if from == to || SIDEWAYS.contains(&(from, to)) {
        return None;
    }
    let Some(at) = layer(from) else { return Some(format!("{from} belongs to no layer")) };
    match layer(to) {
        None => Some(format!("{from} uses crate::{to}: which is no module of the crate")),
        Some(0) if at == 0 => None,
        Some(below) if below < at => None,
        Some(same) if same == at => Some(format!("{from} uses its sibling {to}")),
        Some(_) => Some(format!("{from} uses {to}, which stands above it")),
    }
}

/// The code of a line, without a comment at its end.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The modules of the crate's root that a source uses, with line numbers. `path` is relative to `src`.
fn uses(path: &Path, text: &str) -> Vec<(usize, String)> {
    let whole = path.with_extension("");
    let mut depth = whole.components().count();
    depth -= usize::from(whole.ends_with("mod"));
    let mut found = Vec::new();
    let mut inline = 0;
    let mut text_after = text;
    for (number, line) in text.lines().enumerate() {
        let rest = text_after;
        text_after = text_after.split_once('\n').map_or("", |(_, after)| after);
        if line.ends_with('{') && ["mod ", "pub mod ", "pub(crate) mod "].iter().any(|m| line.starts_with(m))
        {
            inline = 1;
        } else if line == "}" {
            inline = 0;
        }
        let code = code(line);
        // `super` as often as the module is deep leads to the root as well.
        let root = "super::".repeat(depth + inline);
        for prefix in ["crate::", &root] {
            for (at, _) in code.match_indices(prefix) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                found.extend(names(&rest[at + prefix.len()..]).into_iter().map(|name| (number + 1, name)));
            }
        }
    }
    found
}

/// The first names of a path or of a braced list of paths.
fn names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut found, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                found.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found.retain(|name: &String| !name.is_empty());
    found
}

/// All sources, relative to the package.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&package.join("src"), &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(package).unwrap().to_path_buf(), text)
    };
    found.into_iter().map(read).collect()
}

#[test]
fn no_module_uses_what_stands_above_or_beside_it() {
    let mut objections = Vec::new();
    let mut checked = 0;
    let sources = sources();
    let root = sources.iter().find(|(path, _)| path == Path::new("src/lib.rs")).unwrap();
    let exports = exports(&root.1);
    for (path, text) in &sources {
        let inside = path.strip_prefix("src").unwrap();
        let first = Path::new(inside.iter().next().unwrap()).with_extension("");
        let module = first.to_str().unwrap().to_owned();
        // The root names every module, and the program is a crate of its own above all of them.
        if module == "lib" || module == "bin" {
            continue;
        }
        for (line, used) in uses(inside, text) {
            checked += 1;
            if let Some(what) = objection(&module, exports.get(&used).unwrap_or(&used)) {
                objections.push(format!("{}:{line}: {what}", path.display()));
            }
        }
    }
    assert!(checked > 100, "only {checked} uses found: does this test still read the sources?");
    assert!(objections.is_empty(), "\n{}", objections.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_is_argued() {
    let mut found = Vec::new();
    let mut allowed = 0;
    for (path, text) in sources() {
        let name = path.to_str().unwrap().replace('\\', "/");
        let may = UNSAFE.iter().any(|place| name.starts_with(place));
        for (number, line) in text.lines().enumerate() {
            // With a hyphen it is a word of some text, such as a page's policy.
            let words = code(line).split(|c: char| !c.is_alphanumeric() && !"_-".contains(c));
            let lifts = code(line).contains("allow(unsafe_code)");
            if lifts || words.into_iter().any(|word| word == "unsafe") {
                match may {
                    true => allowed += 1,
                    false => found.push(format!("{name}:{}", number + 1)),
                }
            }
        }
    }
    assert!(allowed > 0, "no unsafe at all: does this test still read the sources?");
    assert!(found.is_empty(), "unsafe outside {UNSAFE:?}:\n{}", found.join("\n"));
}

#[test]
fn upward_and_sideways_uses_are_seen() {
    let used = |path: &str, text: &str| -> Vec<String> {
        uses(Path::new(path), text).into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(used("format/file.rs", "use crate::storage::log;"), ["storage"]);
    assert_eq!(used("index/mod.rs", "    let x = crate::db::f(); // crate::error"), ["db"]);
    assert_eq!(
        used("text/mod.rs", "use crate::{\n    error::{Error, Result},\n    db::Db,\n};"),
        ["error", "db"]
    );
    assert_eq!(used("storage/log.rs", "use super::super::db::Db;"), ["db"]);
    assert_eq!(used("storage/mod.rs", "use super::db::Db;"), ["db"]);
    assert_eq!(used("storage/log.rs", "mod tests {\n    use super::super::sim::SimVfs;\n}"), [""; 0]);
    assert_eq!(used("storage/log.rs", "/// See [`crate::db`].\nuse super::vfs::Vfs;"), [""; 0]);

    let exports = exports("pub use db::Db;\npub use types::{Document,\n    Hit};");
    assert_eq!((&*exports["Db"], &*exports["Document"], &*exports["Hit"]), ("db", "types", "types"));

    for (from, to) in [
        ("format", "storage"),
        ("format", "kernel"),
        ("index", "storage"),
        ("text", "encoder"),
        ("encoder", "index"),
        ("trainer", "db"),
        ("error", "format"),
        ("storage", "Unknown"),
        ("novelty", "error"),
    ] {
        assert!(objection(from, to).is_some(), "{from} → {to}");
    }
    for (from, to) in
        [("error", "types"), ("encoder", "text"), ("index", "format"), ("trainer", "encoder"), ("db", "db")]
    {
        assert_eq!(objection(from, to), None, "{from} → {to}");
    }
}
