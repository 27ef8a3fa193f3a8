//! embed: vectors as they come, in order, and nothing half-done.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Command;

use serde_json::{Value, json};

use super::support::{MODEL, Place, Run};

/// More texts than are encoded in one call.
const MANY: usize = 2500;

fn letter(n: usize) -> char {
    char::from(b'a' + (n % 26) as u8)
}

fn lines() -> String {
    (0..MANY).map(|n| format!("\"{} {} {}\"\n", letter(n), letter(n / 26), letter(n / 676))).collect()
}

#[test]
fn many_texts_give_their_vectors_in_order() {
    let place = Place::new();
    place.write("in.jsonl", lines());
    let file = place.json(&["none", "embed", "--model", MODEL, "--input", "in.jsonl", "--out", "v.npy"]);
    assert_eq!(file["texts"], MANY);
    let dim = file["dim"].as_u64().unwrap() as usize;
    let bytes = fs::read(place.path("v.npy")).unwrap();
    let (header, data) = bytes.split_at(bytes.len() - MANY * dim * 4);
    assert!(String::from_utf8_lossy(header).contains(&format!("({MANY}, {dim})")));
    let stored: Vec<f32> = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();

    let object = place.json(&["none", "embed", "--model", MODEL, "--input", "in.jsonl"]);
    assert_eq!(object["texts"], MANY);
    let parse = |v: &Value| serde_json::from_value::<Vec<f32>>(v.clone()).unwrap();
    let printed: Vec<f32> = object["vectors"].as_array().unwrap().iter().flat_map(parse).collect();
    assert_eq!(printed, stored);
    let plain = place.run(&["none", "embed", "--model", MODEL, "--input", "in.jsonl"]).code(0);
    assert_eq!(plain.objects().iter().flat_map(parse).collect::<Vec<f32>>(), stored);
    for row in [0, 1023, 1024, MANY - 1] {
        let text = lines().lines().nth(row).unwrap().trim_matches('"').to_owned();
        let alone = place.json(&["none", "embed", "--model", MODEL, &text]);
        assert_eq!(parse(&alone["vectors"][0]), &stored[row * dim..(row + 1) * dim], "{row}");
    }
}

#[test]
#[cfg(unix)]
fn vectors_come_before_the_input_ends_and_an_interrupt_is_130() {
    let place = Place::new();
    let interrupt = |child: &std::process::Child| {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    };
    let mut child = place.spawn(&["none", "embed", "--model", MODEL, "--input", "-"]);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    input.write_all(lines().as_bytes()).unwrap();
    let mut line = String::new();
    for _ in 0..1024 {
        line.clear();
        output.read_line(&mut line).unwrap();
        assert!(serde_json::from_str::<Vec<f32>>(&line).is_ok(), "{line}");
    }
    interrupt(&child);
    // It reads to the end of what was written, so that the pipe does not keep it.
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let mut child = place.spawn(&["none", "embed", "--model", MODEL, "--input", "-", "--out", "v.npy"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines().as_bytes()).unwrap();
    super::importing::wait_for(|| fs::read_dir(place.path("")).unwrap().count() == 1);
    interrupt(&child);
    Run::from(child.wait_with_output().unwrap()).code(130);
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 0, "nothing half-done is left");
}

#[test]
fn a_bad_line_leaves_no_file() {
    let place = Place::new();
    place.write("bad.jsonl", format!("{}[1]\n", lines()));
    place.write("v.npy", "before");
    let arguments = ["none", "embed", "--model", MODEL, "--input", "bad.jsonl", "--out", "v.npy"];
    place.run(&arguments).code(1).says(&["bad.jsonl", &format!("line {}", MANY + 1)]);
    assert_eq!(fs::read_to_string(place.path("v.npy")).unwrap(), "before");
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 2);
    place.write("empty.jsonl", "\n");
    place.run(&["none", "embed", "--model", MODEL, "--input", "empty.jsonl"]).code(1).says(&["no texts"]);
    let both = place.json(&["none", "embed", "--model", MODEL, "--input", "empty.jsonl", "a"]);
    assert_eq!(both["texts"], json!(1));
}
