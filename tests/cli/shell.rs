//! Statements from standard input.

use serde_json::json;

use super::support::Place;

#[test]
fn a_script_does_what_the_commands_do() {
    let place = Place::with_texts();
    let script =
        "# a comment\n\ncount\n.count --where \"lang = 'en'\"\nadd --id 'd e' --text \"it's new\"\nids\n";
    let run = place.feed(&["db"], script).code(0);
    assert_eq!(run.out, "3\n2\n7\na\nb\nd e\n");
    let json = place.feed(&["db", "--json"], "count\nget 7\n").code(0).objects();
    assert_eq!(json[0], json!({"count": 4}));
    assert_eq!(json[1], place.json(&["db", "get", "7"]));
}

#[test]
fn a_line_that_is_no_command_is_a_search_and_hits_can_be_clicked() {
    let place = Place::with_texts();
    let script = ".mode json\nit's raining, isn't it?\nclick 2\nclick 4\n";
    let run = place.feed(&["db"], script).code(1).says(&["line 4", "3 hits"]);
    let objects = run.objects();
    assert_eq!(objects[1]["id"], objects[0]["hits"][1]["id"]);
    assert_eq!(objects[1]["query_id"], objects[0]["query_id"]);
    let stats = place.json(&["db", "log", "stats"]);
    assert_eq!((&stats["searches"], &stats["clicks"]), (&json!(1), &json!(1)));
    place.feed(&["db"], "click 1\n").code(1).says(&["no search"]);
    let quiet = place.feed(&["db"], ".logging off\nsearch x --json\nclick 1\n").code(1).says(&["--log"]);
    assert_eq!(quiet.objects()[0]["query_id"], json!(null));
}

#[test]
fn the_first_error_stops_a_script_with_its_code() {
    let place = Place::with_texts();
    for (statement, code) in [
        ("get nope", 1),
        ("count --nonsense", 1),
        ("get 'unbalanced", 1),
        (".nonsense", 1),
        ("search x -k 10001", 5),
        (".read missing", 1),
    ] {
        let script = format!("count\n{statement}\ncount\n");
        assert_eq!(place.feed(&["db"], &script).code(code).out.lines().count(), 1, "{statement}");
        let run = place.feed(&["db", "--keep-going"], &script).code(code);
        assert_eq!(run.out.lines().count(), 2, "{statement}");
    }
    place.feed(&["db"], b"count\nsearch \xff\n").code(1).says(&["line 2", "UTF-8"]);
    assert_eq!(place.feed(&["db"], "count\n.quit\ncount\n").code(0).out, "3\n");
}

#[test]
fn modes_timer_and_files() {
    let place = Place::with_texts();
    let csv = place.feed(&["db"], ".mode csv\ngenerations\n").code(0).out;
    assert!(csv.starts_with("generation,model_id,created,documents,active,metrics\n1,"), "{csv}");
    let markdown = place.feed(&["db"], ".mode markdown\nlog stats\n").code(0).out;
    assert!(markdown.contains("| searches | 0 |"), "{markdown}");
    place.feed(&["db"], ".timer on\ncount\n").code(0).says(&["time: "]);
    assert!(place.feed(&["db"], ".help\n").code(0).out.contains(".import".trim_start_matches('.')));
    place.write("inner.sql", "count\nget nope\ncount\n");
    let run = place.feed(&["db"], ".read inner.sql\ncount\n").code(1).says(&["inner.sql, line 2"]);
    assert_eq!(run.out, "3\n");
    place.write("loop.sql", ".read loop.sql\n");
    place.feed(&["db"], ".read loop.sql\n").code(1).says(&["deep"]);
}

#[test]
fn import_and_search_in_one_script() {
    let place = Place::with_texts();
    place.write("more.jsonl", "{\"id\": \"m\", \"text\": \"trains and stations\"}\n");
    let run = place.feed(&["db", "--json"], ".import more.jsonl\ntrains and stations\n").code(0);
    let objects = run.objects();
    assert_eq!(objects[0]["documents"], 1);
    assert_eq!(objects[1]["hits"][0]["id"], "m");
}

#[test]
fn a_missing_database_is_told_at_the_first_statement() {
    let place = Place::new();
    place.feed(&["db"], "count\n").code(1).says(&["no database at db"]);
    assert!(!place.path("db").exists());
    place.feed(&["db"], "create --vectors 2\nadd --id a --vector [1,2]\n").code(0);
    assert_eq!(place.count("db"), 1);
}
